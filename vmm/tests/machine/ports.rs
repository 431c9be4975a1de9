//! The named port, and the PC's clock.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sublet_vmm_protocol::{MachineConfig, PortConfig};

use crate::vmm::{Image, MODULES, Vmm, launch, machine};

fn with_port() -> MachineConfig {
    let config = machine(1);
    let socket = format!("/run/{}.port", config.name).into();
    MachineConfig { port: Some(PortConfig { name: "org.example.7".into(), socket }), ..config }
}

#[test]
fn a_guest_and_its_host_talk_through_a_named_port() {
    let mut vmm = Vmm::prepare(with_port());
    let port = "/dev/virtio-ports/org.example.7";
    let named = "for port in /sys/class/virtio-ports/*; do mkdir -p /dev/virtio-ports; \
                 ln -sf /dev/${port##*/} /dev/virtio-ports/$(cat $port/name); done";
    vmm.boot(Image::Elf612.running(&format!(
        "until [ -e /sys/class/virtio-ports/*/name ]; do usleep 20000; done; {named}; \
         while true; do cat <>{port} >&0; echo went >/dev/console; done"
    )));
    let socket = vmm.config.port.as_ref().unwrap().socket.clone();
    // Longer than one buffer, so that it goes in many pieces.
    let said: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    for _ in 0..2 {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let echoed = std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&said).unwrap());
            let mut echoed = vec![0; said.len()];
            stream.read_exact(&mut echoed).unwrap();
            echoed
        });
        assert!(echoed == said, "not what was said came back");
    }
    vmm.wait_for("went");
}

#[test]
fn a_socket_that_cannot_be_made_is_named() {
    let config = with_port();
    let socket = &config.port.as_ref().unwrap().socket;
    std::fs::write(socket, "precious").unwrap();
    let refused = launch(&config);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("port.socket"), "{told}");
    assert_eq!(std::fs::read(socket).unwrap(), b"precious");
}

#[test]
fn the_pcs_clock_tells_the_hosts_time() {
    let mut vmm = Vmm::prepare(machine(1));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let before = now();
    vmm.boot(
        Image::Elf612.running(&format!("{MODULES}; echo rtc $(cat /sys/class/rtc/rtc0/since_epoch) told")),
    );
    vmm.wait_for("told");
    let console = vmm.console();
    let told: u64 =
        console.split_whitespace().skip_while(|word| *word != "rtc").nth(1).unwrap().parse().unwrap();
    assert!((before..=now()).contains(&told), "{told} is not {before} or a little later: {console}");
}
