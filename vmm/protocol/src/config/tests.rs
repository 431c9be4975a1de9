use super::*;

fn machine() -> MachineConfig {
    MachineConfig {
        version: PROTOCOL_VERSION,
        name: "partition-1".into(),
        user: 70_000,
        vcpu_host_cpus: vec![2, 3],
        shared_cpus: false,
        service_host_cpus: vec![0],
        memory_mib: 256,
        huge_pages: false,
        disks: vec![disk("/a"), disk("/b")],
        vsock: Some(VsockConfig { guest_cid: GUEST_CID_MIN }),
        network: Some(NetworkConfig { tap: "sublet-1_a".into(), mac: MacAddress([2, 0, 0, 0, 0, 1]) }),
        rng: Some(RngConfig::default()),
        port: None,
        console: ConsoleConfig { path: "/console".into(), capacity_bytes: 65536 },
        control_socket: "/control".into(),
    }
}

fn disk(path: &str) -> DiskConfig {
    DiskConfig::new(path)
}

/// What is wrong with a machine that is right but for this change.
fn wrong(change: impl FnOnce(&mut MachineConfig)) -> ConfigError {
    let mut config = machine();
    change(&mut config);
    config.validate().unwrap_err()
}

#[test]
fn a_machine_is_the_same_after_a_trip_through_json() {
    let text = serde_json::to_string(&machine()).unwrap();
    let back: MachineConfig = serde_json::from_str(&text).unwrap();
    assert_eq!(back, machine());
    assert_eq!(back.validate(), Ok(()));
}

#[test]
fn what_may_be_left_out_can_be_left_out() {
    let text = r#"{"version":2,"name":"p","user":70000,"vcpu_host_cpus":[0],"memory_mib":64,
        "console":{"path":"c","capacity_bytes":4096},"control_socket":"s"}"#;
    let config: MachineConfig = serde_json::from_str(text).unwrap();
    assert_eq!(config.validate(), Ok(()));
    assert_eq!((config.disks.len(), config.vsock, config.service_host_cpus.len()), (0, None, 0));
    assert_eq!((config.rng, config.network), (None, None));
    let disk: DiskConfig = serde_json::from_str(r#"{"path":"/a"}"#).unwrap();
    assert_eq!(disk, DiskConfig::new("/a"));
    assert_eq!(serde_json::from_str::<RngConfig>("{}").unwrap(), RngConfig::default());
}

#[test]
fn a_field_that_this_version_does_not_know_is_refused() {
    let text = serde_json::to_string(&machine()).unwrap().replacen('{', r#"{"turbo":true,"#, 1);
    assert!(serde_json::from_str::<MachineConfig>(&text).unwrap_err().to_string().contains("turbo"));
}

#[test]
fn another_version_is_refused() {
    assert_eq!(wrong(|config| config.version = 1), ConfigError::Version(1));
}

#[test]
fn a_name_that_could_be_a_path_or_a_terminal_sequence_is_refused() {
    for name in ["", "../etc", "a b", "a\x1b[0m", &"x".repeat(65)] {
        assert_eq!(wrong(|config| config.name = name.into()), ConfigError::Name(name.into()));
    }
}

#[test]
fn a_machine_is_never_roots() {
    for user in [0, u32::MAX] {
        assert_eq!(wrong(|config| config.user = user), ConfigError::User(user));
    }
}

#[test]
fn vcpus_are_counted_and_share_no_host_cpu() {
    assert_eq!(wrong(|config| config.vcpu_host_cpus.clear()), ConfigError::VcpuCount(0));
    let many = (0..=VCPU_MAX as u32).collect();
    assert_eq!(wrong(|config| config.vcpu_host_cpus = many), ConfigError::VcpuCount(VCPU_MAX + 1));
    assert_eq!(wrong(|config| config.vcpu_host_cpus = vec![4, 5, 4]), ConfigError::SharedCpu(4));
}

#[test]
fn memory_has_limits_and_both_are_allowed() {
    for memory in [0, MEMORY_MIN_MIB - 1, MEMORY_MAX_MIB + 1, u64::MAX] {
        assert_eq!(wrong(|config| config.memory_mib = memory), ConfigError::Memory(memory));
    }
    for memory_mib in [MEMORY_MIN_MIB, MEMORY_MAX_MIB] {
        assert_eq!(MachineConfig { memory_mib, ..machine() }.validate(), Ok(()));
    }
    let odd = |huge_pages| MachineConfig { memory_mib: 65, huge_pages, ..machine() }.validate();
    assert_eq!((odd(false), odd(true)), (Ok(()), Err(ConfigError::HugePages(65))));
}

#[test]
fn disks_are_counted_and_none_is_named_twice() {
    let many = (0..=DISK_MAX).map(|number| disk(&format!("/{number}"))).collect();
    assert_eq!(wrong(|config| config.disks = many), ConfigError::DiskCount(DISK_MAX + 1));
    let twice = vec![disk("/a"), disk("/b"), disk("/a")];
    assert_eq!(wrong(|config| config.disks = twice), ConfigError::SharedDisk("/a".into()));
}

#[test]
fn a_disk_has_neither_no_queues_nor_endless_ones() {
    for queues in [0, DISK_QUEUE_MAX + 1, u16::MAX] {
        assert_eq!(
            wrong(|config| config.disks[1].queues = Some(queues)),
            ConfigError::Queues { disk: 1, queues }
        );
    }
    let mut config = machine();
    config.disks[0].queues = Some(DISK_QUEUE_MAX);
    assert_eq!(config.validate(), Ok(()));
}

#[test]
fn a_serial_number_fits_and_can_be_printed() {
    for serial in ["", "123456789012345678901", "a\n", "\u{e4}"] {
        let error = wrong(|config| config.disks[0].serial = Some(serial.into()));
        assert_eq!(error, ConfigError::Serial { disk: 0, serial: serial.into() });
    }
}

#[test]
fn a_rate_is_neither_zero_nor_beyond_counting() {
    for limit in [(0, 1), (1, 0), (RATE_MAX + 1, 1), (1, u64::MAX)] {
        let limit = RateLimit { per_second: limit.0, burst: limit.1 };
        let told = wrong(|config| config.disks[1].limits.bytes = Some(limit)).to_string();
        assert!(told.starts_with("disks[1].limits.bytes: rate and burst must be 1 to"), "{told}");
        assert!(matches!(
            wrong(|config| config.disks[0].limits.operations = Some(limit)),
            ConfigError::Rate { .. }
        ));
        let rng = wrong(|config| config.rng = Some(RngConfig { bytes: limit }));
        assert_eq!(rng, ConfigError::Rate { field: "rng.bytes".into(), limit });
    }
}

#[test]
fn context_ids_that_mean_somebody_else_are_refused() {
    for guest_cid in [0, 1, 2, u32::MAX] {
        assert_eq!(
            wrong(|config| config.vsock = Some(VsockConfig { guest_cid })),
            ConfigError::GuestCid(guest_cid)
        );
    }
}

#[test]
fn a_card_has_a_tap_that_can_be_one_and_an_address_of_its_own() {
    let network = |config: &mut MachineConfig| config.network.take().unwrap();
    for tap in ["", "../../etc", "tap 1", "tap%d", "a.b", "sixteen-letters1"] {
        let named = |config: &mut MachineConfig| {
            config.network = Some(NetworkConfig { tap: tap.into(), ..network(config) });
        };
        assert_eq!(wrong(named), ConfigError::Tap(tap.into()));
    }
    for mac in [[0; 6], [1, 0, 0, 0, 0, 1], [0xff; 6]].map(MacAddress) {
        let addressed = |config: &mut MachineConfig| {
            config.network = Some(NetworkConfig { mac, ..network(config) });
        };
        assert_eq!(wrong(addressed), ConfigError::Mac(mac));
    }
}

#[test]
fn a_console_log_is_neither_tiny_nor_endless() {
    for bytes in [0, 4095, (64 << 20) + 1] {
        assert_eq!(
            wrong(|config| config.console.capacity_bytes = bytes),
            ConfigError::ConsoleCapacity(bytes)
        );
    }
}

#[test]
fn a_port_has_a_name_that_is_a_files_and_a_socket_of_its_own() {
    let port = |name: &str, socket: &str| {
        let port = Some(PortConfig { name: name.into(), socket: socket.into() });
        MachineConfig { port, ..machine() }.validate()
    };
    assert_eq!(port("org.example_0-A", "/port"), Ok(()));
    for name in ["", "a/b", "ä", &"x".repeat(33)] {
        assert_eq!(port(name, "/port"), Err(ConfigError::PortName(name.into())));
    }
    assert_eq!(port("p", "/control"), Err(ConfigError::PortSocket("/control".into())));
}

#[test]
fn an_error_names_the_field_and_the_limit() {
    let told = wrong(|config| config.memory_mib = 1).to_string();
    assert_eq!(told, "memory_mib: must be 32 to 262144, is 1");
}
