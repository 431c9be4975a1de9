use super::*;

fn system() -> System {
    let path = PathBuf::from("/nowhere");
    System { kernel: path.clone(), initrd: path.clone(), root: None, programs: path.clone(), images: path }
}

#[test]
fn a_lab_keeps_its_secrets_when_it_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let token = || fs::read(Lab::open(directory.path()).unwrap().directory().join("owner.token")).unwrap();
    assert_eq!(token(), token());
}

#[test]
fn a_host_that_is_not_there_is_named_with_those_that_are() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::open(directory.path()).unwrap();
    let error = lab.host("host-9").unwrap_err();
    assert_eq!(error.to_string(), "this lab has no host \"host-9\"; it has none");
}

#[test]
fn a_name_cannot_lead_out_of_the_labs_directory() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::open(directory.path()).unwrap();
    for name in ["", "..", "../x", "a/b", "Host", &"x".repeat(33)] {
        assert!(matches!(lab.host(name), Err(LabError::Name(_))), "{name:?}");
    }
}

#[test]
fn hosts_are_kept_with_their_options_and_never_share_a_port() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::open(directory.path()).unwrap();
    let options = HostOptions { disk_mib: 16, cpus: 2, ..HostOptions::default() };
    for number in [1, 2, 10] {
        lab.make(&format!("host-{number}"), &options, &system()).unwrap();
    }
    let hosts = lab.hosts().unwrap();
    assert_eq!(hosts.iter().map(Host::name).collect::<Vec<_>>(), ["host-1", "host-2", "host-10"]);
    assert!(hosts.iter().all(|host| *host.options() == options && !host.is_running()));
    let ports: BTreeSet<u16> =
        hosts.iter().flat_map(|host| [host.record.agent_port, host.record.exec_port]).collect();
    assert_eq!(ports.len(), 6);

    lab.remove(&hosts[1]).unwrap();
    assert_eq!(lab.hosts().unwrap().len(), 2);
}

#[test]
fn repeatable_time_is_refused_to_a_host_with_several_cpus() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::open(directory.path()).unwrap();
    let options = HostOptions { icount: true, cpus: 2, ..HostOptions::default() };
    assert!(matches!(lab.make("host-1", &options, &system()), Err(UpError::IcountCpus(2))));
}

#[test]
fn a_host_is_not_taken_for_one_with_other_options() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::open(directory.path()).unwrap();
    let options = HostOptions { disk_mib: 16, ..HostOptions::default() };
    lab.make("host-1", &options, &system()).unwrap();
    let others = HostOptions { registry: Some("http://127.0.0.1:7070".into()), ..options };
    assert!(matches!(lab.up("host-1", &others, &system()), Err(UpError::OtherOptions(_))));
}
