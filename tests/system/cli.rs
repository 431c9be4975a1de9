//! The command line, as a borrower types it.

use serde_json::Value;

use crate::world::{SMALL, output, world};

fn lines(bytes: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(bytes).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn rent_passes_output_and_exit_code_on_and_prints_the_bill() {
    let world = world();
    let _offer = world.offer(SMALL);
    let arguments = ["rent", "--image", "debian-micro", "--", "sh", "-c", "echo out; echo err >&2; exit 9"];
    let rented = output(world.sublet(&arguments));
    let stderr = String::from_utf8_lossy(&rented.stderr);
    assert_eq!(rented.status.code(), Some(9), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&rented.stdout), "out\n");
    assert!(stderr.contains("err\n") && stderr.contains("charge"), "{stderr}");
    let bill = output(world.sublet(&["bill", "--json"]));
    let bill: Value = serde_json::from_slice(&bill.stdout).unwrap();
    // What an emulated host could not deliver is credited, in an entry of its own.
    let entries = bill["entries"].as_array().unwrap();
    let lease = entries.iter().find(|entry| entry["kind"] == "lease").unwrap();
    assert_eq!(lease["used"]["reason"], "returned");
}

#[test]
fn borrow_run_jobs_logs_and_return_work_step_by_step_and_in_json() {
    let world = world();
    let offer = world.offer(SMALL);
    let partition = offer.id.to_string();
    let borrowed = output(world.sublet(&["borrow", "--partition", &partition, "--for", "10m", "--json"]));
    assert!(borrowed.status.success(), "{}", String::from_utf8_lossy(&borrowed.stderr));
    let run = output(world.sublet(&[
        "run",
        "--image",
        "debian-micro",
        "--json",
        "--",
        "sh",
        "-c",
        "echo one; exit 4",
    ]));
    assert_eq!(run.status.code(), Some(4));
    let events = lines(&run.stdout);
    assert_eq!(events[0]["text"], "one\n");
    assert_eq!(events.last().unwrap()["event"], "end");
    let job = events.last().unwrap()["job"]["id"].as_str().unwrap().to_owned();
    let logs = output(world.sublet(&["logs", &job]));
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "one\n");
    let jobs = output(world.sublet(&["jobs", "--json"]));
    let jobs: Value = serde_json::from_slice(&jobs.stdout).unwrap();
    assert_eq!(jobs["jobs"][0]["id"], job.as_str());
    let returned = output(world.sublet(&["return", "--json"]));
    let returned: Value = serde_json::from_slice(&returned.stdout).unwrap();
    assert_eq!(returned["end"]["reason"], "returned");
}

#[test]
fn an_empty_search_says_what_offers_fell_to() {
    let world = world();
    let _offer = world.offer(SMALL);
    let found = output(world.sublet(&["search", "--cpus", "3"]));
    assert!(String::from_utf8_lossy(&found.stdout).contains("have too few CPUs"), "{found:?}");
}

#[test]
fn doctor_in_a_lab_host_says_that_it_can_lend() {
    let world = world();
    world.lab_host.copy(&world.programs.join("sublet"), "/tmp/sublet").unwrap();
    let said = world.lab_host.exec(["/tmp/sublet", "doctor"]).unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains("This host can lend."), "{said:?}");
}
