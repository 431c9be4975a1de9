//! Partitions with a network: what their guests reach and what they do not, and that nothing of it stays.
//!
//! The lab host gets surroundings as a lender's have them: a network of its own with a router in it, behind which is
//! the internet, all in a network namespace beside the host's.

use sublet::{
    api::{agent::CarvePartition, problem::Code},
    domain::network::Network,
};
use sublet_lab::AgentAction;

use crate::{
    loan::Loan,
    world::{AN_HOUR, PATIENCE, SMALL, World, shell, world},
};

/// The host's own programs; its shell would take busybox's.
const TOOLS: &str = "PATH=/usr/sbin:$PATH; ip() { /usr/sbin/ip \"$@\"; }; ";

/// The router at 192.168.77.254 has the internet's 11.22.33.44 behind it, with a name; a cloud's metadata at
/// 169.254.169.254; and a machine of the lender's at 12.34.56.254, a public address on the lender's own link.
const BEGIN_SURROUNDINGS: &str = r#"
mkdir -p /var/run /srv/cgi-bin
printf '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\nfrom $REMOTE_ADDR\\n"\n' >/srv/cgi-bin/who
chmod 755 /srv/cgi-bin/who
ip netns add internet
ip link add lan0 type veth peer name wan0 netns internet
ip address add 192.168.77.1/24 dev lan0
ip address add 12.34.56.1/24 dev lan0
ip link set lan0 up
for address in 192.168.77.254/24 12.34.56.254/24; do ip -n internet address add $address dev wan0; done
for address in 11.22.33.44/32 169.254.169.254/32; do ip -n internet address add $address dev lo; done
ip -n internet link set lo up
ip -n internet link set wan0 up
ip -n internet route add 100.96.0.0/16 via 192.168.77.1
ip route add 11.22.33.0/24 via 192.168.77.254
ip route add 169.254.169.254 via 192.168.77.254
ip netns exec internet httpd -p 0.0.0.0:80 -h /srv
ip netns exec internet dnsmasq --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= \
    --local=/example/ --address=/there.example/11.22.33.44 --address=/rebound.example/192.168.77.254
echo 'nameserver 192.168.77.254' >/etc/resolv.conf
"#;

const END_SURROUNDINGS: &str = r#"
rm -rf /etc/resolv.conf /srv
kill $(ip netns pids internet)
ip link delete lan0
ip netns delete internet
"#;

struct Surroundings(&'static World);

impl Surroundings {
    fn begin() -> Self {
        let world = world();
        world.on_host(&format!("{TOOLS}{BEGIN_SURROUNDINGS}"));
        Self(world)
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        let _ = self.0.lab_host.exec(["sh", "-c", &format!("{TOOLS}{END_SURROUNDINGS}")]);
    }
}

/// Waits in a guest until its card has an address; a shell's commands.
const CONNECTED: &str = "until ip route | grep -q default; do usleep 100000; done; ";

/// What of `addresses` answers in time; a shell's commands. All are tried at once.
fn reached(addresses: &[&str]) -> String {
    let tries = addresses.iter().map(|address| {
        format!("(timeout 8 wget -q -O /dev/null http://{address} 2>/dev/null && echo reached {address}) & ")
    });
    tries.collect::<String>() + "wait"
}

/// The address that a guest has, and its gateway's.
fn addresses(loan: &Loan) -> (String, String) {
    let script = "ip -4 address show dev eth0 | sed -n 's|.*inet \\(.*\\)/30.*|\\1|p'; \
                  ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p'";
    let said = loan.shell(&format!("{CONNECTED}{script}")).success();
    let (address, gateway) = said.trim().split_once('\n').unwrap();
    (address.to_owned(), gateway.to_owned())
}

/// Waits on the host until a shell's condition holds.
fn wait_on_host(condition: &str) {
    let script = format!("{TOOLS}until {condition}; do usleep 100000; done");
    let limit = PATIENCE.as_secs().to_string();
    let output = world().lab_host.exec(["timeout", &limit, "sh", "-c", &script]).unwrap();
    assert!(output.outcome.is_success(), "{condition}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What is left on the host of partitions' networks.
fn left_on_host() -> String {
    world().on_host(&format!(
        "{TOOLS}ip -o link | grep sl- || true; nft list ruleset; \
         ps | grep '[d]nsmasq --conf-file=-' || true; conntrack -L 2>/dev/null | grep 11.22.33.44 || true; \
         find /sys/fs/cgroup/sublet/network -mindepth 1 -type d; ls /run/sublet-network.json 2>/dev/null || true; \
         cat /proc/sys/net/ipv4/conf/eth0/forwarding /proc/sys/net/ipv4/conf/lan0/forwarding",
    ))
}

/// Asks by name, so that DNS works as well; says under which address it was heard.
const ASK: &str = "timeout 60 wget -q -O - http://there.example/cgi-bin/who";
const HEARD: &str = "from 192.168.77.1\n";

#[test]
fn a_guest_with_nat_reaches_the_internet_and_nothing_of_its_lenders_or_of_its_neighbours() {
    let surroundings = Surroundings::begin();
    let world = surroundings.0;
    let (offer, other) = (world.offer_with(SMALL, Network::Nat), world.offer_with(SMALL, Network::Nat));
    let (loan, neighbour) = (world.borrow(offer.id, AN_HOUR), world.borrow(other.id, AN_HOUR));
    let (neighbours, _) = addresses(&neighbour);
    let service = world.wait(async {
        let serve = "mkdir /srv; echo private >/srv/who; httpd -p 80 -h /srv; wget -q -O - http://127.0.0.1/who; \
                     tail -f /dev/null";
        let job = neighbour.submit(shell("debian-micro", serve)).await.unwrap();
        neighbour.wait_for_output(job.id, "private").await;
        job.id
    });

    let (_, gateway) = addresses(&loan);
    assert_eq!(loan.shell(ASK).success(), HEARD);
    let rebound = loan.shell("nslookup rebound.example; true").success();
    assert!(!rebound.contains("192.168.77.254"), "{rebound}");

    let agents = ["192.168.77.1", "12.34.56.1", "10.0.2.15", gateway.as_str()];
    let others = ["192.168.77.254", "12.34.56.254", "169.254.169.254"];
    let agents = agents.map(|address| format!("{address}:7180/healthz"));
    let others = others.map(|address| format!("{address}/cgi-bin/who"));
    let lenders: Vec<&str> = agents.iter().chain(&others).map(String::as_str).collect();
    // The host itself reaches all of them: what a guest does not reach is there.
    let answered = world.on_host(&reached(&lenders));
    assert_eq!(answered.lines().count(), lenders.len(), "{answered}");
    let neighbours = format!("{neighbours}/who");
    let all: Vec<&str> = lenders.into_iter().chain([neighbours.as_str()]).collect();
    assert_eq!(loan.shell(&reached(&all)).success(), "");
    // Nobody else opens a connection to a guest either: not the lender's network, and not the host.
    let from_outside = format!("{TOOLS}ip netns exec internet sh -c '{}'", reached(&[&neighbours]));
    assert_eq!(world.on_host(&from_outside), "");
    assert_eq!(world.on_host(&reached(&[&neighbours])), "");

    world.wait(neighbour.agent.cancel(neighbour.partition(), service)).unwrap();
    neighbour.end();
    // What the lender's host does to the rules and servers is put right, and an agent that was killed finds them again.
    world.on_host("/usr/sbin/nft flush ruleset");
    wait_on_host("nft list tables | grep -q 'inet sublet'");
    assert_eq!(loan.shell(ASK).success(), HEARD);
    world.lab_host.agent(AgentAction::Kill).unwrap();
    world.on_host("kill -9 $(cat /sys/fs/cgroup/sublet/network/*/cgroup.procs)");
    world.lab_host.agent(AgentAction::Start).unwrap();
    world.lab_host.wait_for_agent().unwrap();
    assert_eq!(loan.shell(ASK).success(), HEARD);
    loan.end();
    drop((offer, other));
    assert_eq!(left_on_host(), "0\n0\n");
}

#[test]
fn a_partition_without_a_network_has_no_card() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    assert_eq!(loan.shell("ls /sys/class/net; ip route").success(), "lo\n");
    loan.end();
}

#[test]
fn a_host_that_lacks_a_program_offers_no_network_and_says_which_it_lacks() {
    let world = world();
    let carving = CarvePartition { network: Network::Nat, ..CarvePartition::of(SMALL) };
    world.on_host("mv /usr/sbin/dnsmasq /usr/sbin/dnsmasq.away");
    let refused = world.wait(world.owner().carve(&carving));
    world.on_host("mv /usr/sbin/dnsmasq.away /usr/sbin/dnsmasq");
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Some(Code::NetworkUnavailable));
    assert!(refused.to_string().contains("install the package dnsmasq-base"), "{refused}");
}
