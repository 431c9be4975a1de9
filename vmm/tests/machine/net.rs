//! A guest's network card, and the TAP of the host that it is plugged into.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::atomic::{AtomicU8, Ordering},
    thread,
};

use sublet_lab::until;
use sublet_vmm_protocol::{
    Ended, MacAddress, MachineConfig, MachineState, NetworkConfig, PROTOCOL_VERSION, Request, Stopped,
};

use crate::vmm::{Image, LIMIT, MODULES, Vmm, comes_true, launch, machine};

const VERSION: u32 = PROTOCOL_VERSION;
const MIB: usize = 1 << 20;
/// What comes to it in the guest is sent back.
const ECHO_PORT: u16 = 7;
/// What comes to it at the host is thrown away, and zeroes come back without end.
const LOAD_PORT: u16 = 9;
/// Another than any card has by itself.
const MTU: &str = "1400";
const ECHO: &str = "nc -ll -p 7 -e cat";

/// A TAP of the host and a network of its own on it; it stays until another test takes its place.
pub(crate) struct Tap(u8);

impl Tap {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let tap = Self(NEXT.fetch_add(1, Ordering::Relaxed));
        let (name, address) = (tap.name(), format!("{}/24", tap.host()));
        // Each test is a process, and has its own first TAP.
        Command::new("ip").args(["link", "delete", &name]).output().unwrap();
        for command in [
            &["tunctl", "-t", &name][..],
            &["ip", "address", "add", &address, "dev", &name],
            &["ip", "link", "set", &name, "mtu", MTU, "up"],
        ] {
            let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        tap
    }

    fn name(&self) -> String {
        format!("tap{}", self.0)
    }

    fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.0, 1)
    }

    fn guest(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.0, 2)
    }

    /// The card that is plugged into it.
    pub(crate) fn card(&self) -> NetworkConfig {
        NetworkConfig { tap: self.name(), mac: MacAddress([2, 0, 0, 0, 77, self.0]) }
    }

    fn machine(&self, vcpus: u32) -> MachineConfig {
        MachineConfig { network: Some(self.card()), ..machine(vcpus) }
    }

    /// Has a guest make `up`, by which its card has an address.
    fn guest_script(&self) -> String {
        format!(
            "{MODULES} virtio_net; \
             up() {{ ip link set eth0 up; ip address add {}/24 dev eth0; }}; up",
            self.guest()
        )
    }

    /// A counter of what the host has given to the guest.
    fn sent(&self, what: &str) -> u64 {
        let path = format!("/sys/class/net/{}/statistics/tx_{what}", self.name());
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    /// What the guest sends back of these bytes.
    fn echo(&self, bytes: &[u8]) -> Vec<u8> {
        let connect = || TcpStream::connect((self.guest(), ECHO_PORT)).ok();
        let stream = until(LIMIT, connect).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        let mut back = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                (&stream).write_all(bytes).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            (&stream).read_to_end(&mut back).unwrap();
        });
        back
    }

    /// Serves [`LOAD_PORT`] as long as these tests run; a connection whose guest is gone just stays.
    fn serve_load(&self) {
        let listener = TcpListener::bind((self.host(), LOAD_PORT)).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut from, mut to) = (stream.as_ref().unwrap().try_clone().unwrap(), stream.unwrap());
                thread::spawn(move || std::io::copy(&mut from, &mut std::io::sink()));
                thread::spawn(move || std::io::copy(&mut std::io::repeat(0), &mut to));
            }
        });
    }
}

/// Bytes of which no two stretches are alike.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|at| (at.wrapping_mul(0x9e37_79b1) >> 21) as u8).collect()
}

#[test]
fn a_guest_and_its_host_reach_each_other_and_no_byte_changes_on_the_way() {
    for image in [Image::Elf612, Image::BzImage61] {
        let tap = Tap::new();
        let mut vmm = Vmm::prepare(tap.machine(2));
        let card = "/sys/class/net/eth0";
        // That the link is up the guest's kernel notices while it goes on; once a frame has passed it has.
        vmm.boot(image.running(&format!(
            "{}; until ping -c 1 -W 5 {}; do true; done; \
             echo card $(cat {card}/address {card}/mtu {card}/carrier); {ECHO}",
            tap.guest_script(),
            tap.host()
        )));
        vmm.wait_for(&format!("card {} {MTU} 1", tap.card().mac));
        let bytes = pattern(8 * MIB);
        let (sent, frames) = (tap.sent("bytes"), tap.sent("packets"));
        assert!(tap.echo(&bytes) == bytes, "what came back is not what was sent");
        // A segment is as large as both ends like, however small the frames of a wire are.
        let mean = (tap.sent("bytes") - sent) / (tap.sent("packets") - frames);
        assert!(mean > 2000, "{mean} bytes a segment");
    }
}

#[test]
fn a_guest_can_be_killed_or_reset_its_card_while_frames_pass() {
    let tap = Tap::new();
    tap.serve_load();
    let mut vmm = Vmm::prepare(tap.machine(2));
    vmm.boot(Image::Elf612.running(&format!(
        "{}; d=/sys/bus/virtio/drivers/virtio_net; \
         v=$(basename $(readlink -f /sys/class/net/eth0/device)); \
         passed() {{ cat /sys/class/net/eth0/statistics/$1; }}; \
         load() {{ dd if=/dev/zero bs=64k | nc {} {LOAD_PORT} >/dev/null & \
         until [ $(passed tx_bytes) -gt 1000000 -a $(passed rx_bytes) -gt 1000000 ]; do usleep 10000; done; }}; \
         for i in 1 2 3; do load; echo $v >$d/unbind; echo $v >$d/bind; up; killall nc dd; done; \
         echo bound again; nc -l -p {ECHO_PORT} -e cat; load; echo loaded again; sleep 1000",
        tap.guest_script(),
        tap.host()
    )));
    vmm.wait_for("bound again");
    // Without the load, which leaves what is emulated little time for anything else.
    let bytes = pattern(MIB);
    assert!(tap.echo(&bytes) == bytes, "what came back is not what was sent");
    vmm.wait_for("loaded again");
    let status = vmm.request(&Request::Kill { version: VERSION }).unwrap();
    assert_eq!(status.state, MachineState::Off { how: Ended::Killed { by: Stopped::Request } });
}

#[test]
fn a_tap_that_cannot_be_used_is_named_before_anything_is_made_and_a_free_one_can_be_used_again() {
    let tap = Tap::new();
    let holder = Vmm::prepare(tap.machine(1));
    for (name, told) in [
        ("nowhere", "cannot use network.tap: the host has no TAP interface \"nowhere\""),
        ("lo", "cannot use network.tap: the host has no TAP interface \"lo\""),
        ("../lo", "network.tap: must be 1 to 15 characters"),
        (&tap.name(), "is in use by another process"),
    ] {
        let mut config = tap.machine(1);
        config.network = Some(NetworkConfig { tap: name.into(), ..tap.card() });
        let output = launch(&config);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(told), "{said}");
        assert!(!config.control_socket.exists() && !config.console.path.exists());
    }
    assert!(!Path::new("/sys/class/net/nowhere").exists());
    let process = holder.process();
    drop(holder);
    assert!(comes_true(|| !process.lives()));
    Vmm::prepare(tap.machine(1));
}
