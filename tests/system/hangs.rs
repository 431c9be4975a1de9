//! Guests that hang: seen, told, left alone, and stopped when their borrower wants it.

use std::fs;

use sublet::{
    api::agent::{GuestEnd, GuestState, HungHow, JobEnd, JobState},
    domain::id::PartitionId,
};

use crate::{
    images::Images,
    loan::Loan,
    world::{AN_HOUR, SMALL, World, shell, world},
};

/// Stops all that is a runner but the first process, which no signal stops: nothing beats any more, and the job goes on.
const STOP_RUNNER: &str = "killall -STOP sublet-guest";

/// Waits until the host says that the guest is not heard.
fn hangs(partition: PartitionId, how: HungHow) {
    let view = world().wait_for_partition(partition, |view| view.guest_hung.is_some());
    assert_eq!(view.guest_hung.map(|hung| hung.how), Some(how));
}

fn is_running(loan: &Loan, job: sublet::domain::id::JobId) -> bool {
    world().wait(loan.agent.job(loan.partition(), job)).unwrap().state == JobState::Running
}

#[test]
fn a_guest_whose_runner_falls_silent_is_reported_until_it_is_heard_again_and_its_job_goes_on() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    // Nothing reaches the guest meanwhile that could tell it that its silence was seen.
    let script = format!(
        "echo begun; sleep 1; {STOP_RUNNER}; sleep 45; killall -CONT sublet-guest; echo still here; exit 3"
    );
    let job = world.wait(async {
        let job = loan.submit(shell("debian-micro", &script)).await.unwrap();
        loan.wait_for_output(job.id, "begun").await;
        job.id
    });
    hangs(offer.id, HungHow::NotHeard);
    assert!(is_running(&loan, job));
    let address = format!("{}/metrics", world.lab_host.address());
    let metrics = world.wait(async {
        sublet::client::bare().unwrap().get(address).send().await.unwrap().text().await.unwrap()
    });
    assert!(metrics.contains("sublet_guests_hung 1"), "{metrics}");

    let view = world.wait_for_partition(offer.id, |view| view.guest_hung.is_none());
    assert_eq!(view.guest, GuestState::Running { image: "debian-micro".to_owned() });
    let finished = world.wait(loan.follow(job));
    assert_eq!(finished.end(), &JobEnd::Exited { code: 3 });
    assert_eq!(finished.stdout(), "begun\nstill here\n");
    loan.end();
}

#[test]
fn a_guest_that_fell_silent_can_be_stopped() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    let job = world.wait(async {
        let script = format!("echo begun; sleep 1; {STOP_RUNNER}; tail -f /dev/null");
        let job = loan.submit(shell("debian-micro", &script)).await.unwrap();
        loan.wait_for_output(job.id, "begun").await;
        job.id
    });
    hangs(offer.id, HungHow::NotHeard);
    let stopped = world.wait(loan.agent.stop(offer.id)).unwrap();
    assert_eq!((stopped.guest, stopped.guest_hung), (GuestState::Off { how: GuestEnd::Stopped }, None));
    assert_eq!(world.wait(loan.follow(job)).end(), &JobEnd::GuestStopped);
    assert_eq!(loan.shell("echo alive").success(), "alive\n");
    loan.end();
}

/// A kernel of one instruction after another: `cli`, and a jump to itself.
fn kernel_that_hangs_with_interrupts_off() -> Vec<u8> {
    let (entry, header_bytes, segment_bytes) = (16_u64 << 20, 64_u64, 56_u64);
    let code = [0xfa, 0xeb, 0xfe];
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for number in [entry, header_bytes, 0] {
        file.extend(number.to_le_bytes());
    }
    // No flags; the sizes of both headers, and one segment.
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    // To be loaded, readable and executable.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for number in [header_bytes + segment_bytes, entry, entry, code.len() as u64, 4096, 4096] {
        file.extend(number.to_le_bytes());
    }
    file.extend(code);
    file
}

/// The image `hangs`, of that kernel.
pub(crate) fn image_that_hangs(world: &World) -> Images<'_> {
    let file = world.directory.join("interrupts-off");
    fs::write(&file, kernel_that_hangs_with_interrupts_off()).unwrap();
    world.lab_host.copy(&file, "/tmp/interrupts-off").unwrap();
    Images::add(world, "copy hangs; mv /tmp/interrupts-off /tmp/images/hangs/vmlinux")
}

#[test]
fn a_kernel_that_hangs_with_interrupts_off_is_reported_though_nothing_ever_called_and_ends_with_its_lease() {
    let world = world();
    let _images = image_that_hangs(world);
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    let submit = || world.wait(loan.submit(shell("hangs", "true"))).unwrap().id;

    let job = submit();
    hangs(offer.id, HungHow::NotCalled);
    // It heeds no power button.
    let stopped = world.wait(loan.agent.stop(offer.id)).unwrap();
    assert_eq!(stopped.guest, GuestState::Off { how: GuestEnd::Stopped });
    assert_eq!(world.wait(loan.follow(job)).end(), &JobEnd::GuestStopped);

    submit();
    hangs(offer.id, HungHow::NotCalled);
    loan.end();
    world.wait_for_partition(offer.id, |view| view.lease.is_none() && view.guest_hung.is_none());
}
