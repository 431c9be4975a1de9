use super::*;

fn machine() -> Machine<'static> {
    let settings = vec![("exec.secret", PathBuf::from("/lab/exec.secret"))].leak();
    Machine {
        name: "host-1",
        cpus: 4,
        memory_mib: 3072,
        icount: false,
        kernel: Path::new("/a/vmlinux"),
        initrd: Path::new("/a/initrd.img"),
        disks: vec![
            Disk { serial: "programs", file: Path::new("/a/programs.ext4"), writable: false, forgets: false },
            Disk { serial: "state", file: Path::new("/h/state,1.ext4"), writable: true, forgets: false },
        ],
        forwards: vec![(20_001, 7180), (20_002, 7181)],
        settings,
        console_log: Path::new("/h/console.log"),
        agent_log: Path::new("/h/agent.log"),
        pid_file: Path::new("/h/qemu.pid"),
        own_log: Path::new("/h/qemu.log"),
    }
}

fn has(machine: &Machine<'_>, option: &str, value: &str) -> bool {
    machine.arguments().windows(2).any(|pair| pair[0] == option && pair[1] == value)
}

#[test]
fn a_host_with_several_cpus_runs_them_in_threads_of_their_own() {
    assert!(has(&machine(), "-accel", "tcg,thread=multi"));
    assert!(has(&machine(), "-smp", "4"));
    assert!(!machine().arguments().contains(&"-icount".into()));
}

#[test]
fn a_host_with_repeatable_time_counts_instructions_on_one_thread() {
    let machine = Machine { icount: true, cpus: 1, ..machine() };
    assert!(has(&machine, "-accel", "tcg,thread=single"));
    assert!(has(&machine, "-icount", "shift=1,sleep=off"));
}

#[test]
fn ports_are_forwarded_from_loopback_alone() {
    let network = "user,id=net,hostfwd=tcp:127.0.0.1:20001-:7180,hostfwd=tcp:127.0.0.1:20002-:7181";
    assert!(has(&machine(), "-netdev", network));
}

#[test]
fn a_comma_in_a_path_is_no_separator() {
    let drive = "if=none,id=state,format=raw,file=/h/state,,1.ext4,cache=unsafe,discard=unmap";
    assert!(has(&machine(), "-drive", drive));
}

#[test]
fn what_hosts_share_is_read_only() {
    assert!(has(&machine(), "-drive", "if=none,id=programs,format=raw,file=/a/programs.ext4,readonly=on"));
}

#[test]
fn a_secret_is_handed_over_as_a_file_and_not_as_an_argument() {
    assert!(has(&machine(), "-fw_cfg", "name=opt/org.sublet/exec.secret,file=/lab/exec.secret"));
}

#[test]
fn a_stranger_with_the_number_of_a_process_that_is_gone_is_not_taken_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("qemu.pid");
    assert!(Process::find(&pid_file).is_none());
    fs::write(&pid_file, format!("{}\n", std::process::id())).unwrap();
    assert!(Process::find(&pid_file).is_none());
}

#[test]
fn a_process_is_found_by_its_pid_file_and_is_gone_once_killed() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("qemu.pid");
    let mut child = Command::new("sh")
        .args(["-c", "read never", "-pidfile"])
        .arg(&pid_file)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    fs::write(&pid_file, child.id().to_string()).unwrap();
    // A process is there a moment before its command line is.
    let process = crate::wait::until(Duration::from_secs(10), || Process::find(&pid_file)).unwrap();
    assert_eq!(process.id, child.id());
    process.kill().unwrap();
    child.wait().unwrap();
    assert!(Process::find(&pid_file).is_none());
}
