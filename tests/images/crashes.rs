//! Programs that die and disks that fill up: what is on the list is whole, and what is not whole is on no list.

use std::{
    fs,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    liar::Liar,
    server::Server,
    store::{Store, incoming},
};

/// How long anything may take on a slow and busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn a_pull_that_is_killed_leaves_nothing_that_looks_whole_and_the_next_one_cleans_up() {
    let (source, target) = (Store::with_disk(), Store::new());
    let server = Server::start(&source.path());
    let is_over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_over);
    // Blobs are not sent before the client is gone.
    let holds_back = Liar::before(&server, move |asked, answer| {
        while asked.path.contains("/blobs/") && answer.len() > 100_000 && !told.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        answer
    });
    let mut pull = Command::new(env!("CARGO_BIN_EXE_sublet"))
        .args(["image", "--store"])
        .arg(target.path())
        .args(["pull", &holds_back.image("debian/12:full")])
        .spawn()
        .unwrap();
    let (layout, started) = (target.path().join("debian/12"), Instant::now());
    while incoming(&layout) == 0 {
        assert!(started.elapsed() < DEADLINE, "nothing comes");
        thread::sleep(Duration::from_millis(5));
    }
    pull.kill().unwrap();
    pull.wait().unwrap();
    is_over.store(true, Ordering::SeqCst);
    assert_eq!(target.names(), [""; 0]);
    assert_eq!(incoming(&layout), 1, "what it left");
    let server_of_target = Server::start(&target.path());
    assert_eq!(server_of_target.get("/v2/debian/12/manifests/full").status, 404);

    target.done(&["pull", &server.image("debian/12:full")]);
    target.done(&["verify", "debian/12:full"]);
    assert_eq!(incoming(&layout), 0, "it is gone");
    assert_eq!(server_of_target.get("/v2/debian/12/manifests/full").status, 200);
}

#[test]
fn a_store_that_is_full_keeps_what_it_has_and_takes_the_rest_when_there_is_room() {
    let store = Store::with_kernel();
    let disk: Vec<u8> = (0..4u32 << 20).map(|at| (at % 249) as u8).collect();
    let disk = store.write("large.raw", &disk);
    let small = store.file("vmlinuz").to_str().unwrap().to_owned();
    let room = store.file("room");
    fs::create_dir(&room).unwrap();
    // In a mount namespace of its own, with a file system in memory.
    let script = r#"
        set -eu
        mount -t tmpfs -o size=2m room "$1"
        image() { "$2" --json image --store "$1/store" "$3" "$4" --os Debian "$5" "$6"; }
        image "$1" "$2" build small --kernel "$3" > "$1/../told"
        ! image "$1" "$2" build large --disk "$4" 2> "$1/../complaint"
        ls -A "$1/store/large/.incoming" > "$1/../left"
        mount -o remount,size=64m "$1"
        image "$1" "$2" build large --disk "$4" > "$1/../told"
        "$2" --json image --store "$1/store" list > "$1/../listed"
        "$2" image --store "$1/store" verify large"#;
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    command.arg(&room).arg(env!("CARGO_BIN_EXE_sublet")).args([&small, &disk]);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| fs::read_to_string(store.file(name)).unwrap();
    assert!(read("complaint").contains("No space left on device"), "{}", read("complaint"));
    assert_eq!(read("left"), "");
    let listed: serde_json::Value = serde_json::from_str(&read("listed")).unwrap();
    let names: Vec<&str> =
        listed["images"].as_array().unwrap().iter().map(|image| image["image"].as_str().unwrap()).collect();
    assert_eq!(names, ["large:latest", "small:latest"]);
}
