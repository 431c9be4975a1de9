//! A TCP stream between a guest and its host, and the same one between two programs of the host.
//!
//! One end is the same busybox in guest and host, which hands a socket to `dd`; the other is this program.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sublet_vmm_protocol::{MacAddress, NetworkConfig};

use super::vmm::Machine;
use super::{Guest, LIMIT, Reading, ReadingError, Stream};
use crate::wait;

const TAP: &str = "bench";
const MAC: MacAddress = MacAddress([2, 0, 0, 0, 77, 1]);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Whoever dials it gets the stream.
const SOURCE_PORT: u16 = 9001;
/// Whoever dials it sends the stream.
const SINK_PORT: u16 = 9002;
/// Bytes that both ends read and write at once.
const CHUNK: usize = 256 << 10;
/// Longest that one read or write may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The words of the commands that serve both ports.
fn servers(mib: u32) -> [String; 2] {
    [
        format!("-ll -p {SOURCE_PORT} -e dd if=/dev/zero bs={CHUNK} count={}", (mib << 20) / CHUNK as u32),
        format!("-ll -p {SINK_PORT} -e dd of=/dev/null bs={CHUNK}"),
    ]
}

/// A server of the host. Dropped, it is ended.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended by itself is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn compare(guest: &Guest, mib: u32, runs: u32) -> Result<Reading, ReadingError> {
    make_tap()?;
    let _servers = servers(mib).iter().map(|words| serve(words)).collect::<Result<Vec<_>, _>>()?;
    let machine = start_guest(guest, mib)?;
    let there = [(Ipv4Addr::LOCALHOST, SOURCE_PORT), (GUEST, SOURCE_PORT), (GUEST, SINK_PORT)];
    for address in there {
        let answers = || TcpStream::connect_timeout(&address.into(), PATIENCE).ok();
        wait::until(LIMIT, answers).ok_or_else(|| ReadingError::Guest(machine.console()))?;
    }
    let (mut guest_to_host, mut host_to_guest) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        guest_to_host.push(pair(|from| receive(from, mib))?);
        host_to_guest.push(pair(|to| send(to, mib))?);
    }
    Ok(Reading::Net { guest_to_host, host_to_guest })
}

/// The stream within the host, then the guest's.
fn pair(stream: impl Fn(Ipv4Addr) -> io::Result<Duration>) -> Result<Stream, ReadingError> {
    let seconds = |address| stream(address).map(|took| took.as_secs_f64()).map_err(ReadingError::Stream);
    Ok(Stream { host_s: seconds(Ipv4Addr::LOCALHOST)?, guest_s: seconds(GUEST)? })
}

fn receive(from: Ipv4Addr, mib: u32) -> io::Result<Duration> {
    let (started, mut stream) = (Instant::now(), connect(from, SOURCE_PORT)?);
    let (mut buffer, mut received) = (vec![0; CHUNK], 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            bytes => received += bytes as u64,
        }
    }
    let whole = received == u64::from(mib) << 20;
    whole.then(|| started.elapsed()).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// The other end closes once it has everything.
fn send(to: Ipv4Addr, mib: u32) -> io::Result<Duration> {
    let (started, mut stream) = (Instant::now(), connect(to, SINK_PORT)?);
    let chunk = vec![0; CHUNK];
    for _ in 0..(mib << 20) / CHUNK as u32 {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(started.elapsed())
}

fn connect(address: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&(address, port).into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn make_tap() -> Result<(), ReadingError> {
    let address = format!("{HOST}/24");
    run("/bin/tunctl", &["-t", TAP])?;
    run("/bin/ip", &["address", "add", &address, "dev", TAP])?;
    run("/bin/ip", &["link", "set", TAP, "up"])
}

fn run(program: &str, arguments: &[&str]) -> Result<(), ReadingError> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| ReadingError::Run(program.into(), error))?;
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or_else(|| ReadingError::Failed(program.into(), said()))
}

fn serve(words: &str) -> Result<Server, ReadingError> {
    let mut command = Command::new("/bin/nc");
    command.args(words.split(' ')).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(Server).map_err(|error| ReadingError::Run("/bin/nc".into(), error))
}

/// Apart from the CPU where the host's end runs.
fn start_guest(guest: &Guest, mib: u32) -> Result<Machine, ReadingError> {
    let mut config = Machine::config(guest);
    config.vcpu_host_cpus = (1..=guest.vcpus).collect();
    config.service_host_cpus = vec![0];
    config.network = Some(NetworkConfig { tap: TAP.into(), mac: MAC });
    let mut machine = Machine::prepare(&config)?;
    let [source, sink] = servers(mib);
    let steps = format!(
        "mount -t proc p /proc; mount -t devtmpfs d /dev; mount -t sysfs s /sys; modprobe -a virtio_pci virtio_net; \
         ip link set eth0 up; ip address add {GUEST}/24 dev eth0; nc {source} 2>/dev/null & nc {sink} 2>/dev/null"
    );
    machine.boot(guest, &format!("rdinit=/bin/sh -- -c \"{steps}\""))?;
    Ok(machine)
}
