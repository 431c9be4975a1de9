use std::{
    panic::resume_unwind,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use super::*;
use crate::sandbox::Lists;

const PATIENCE: Duration = Duration::from_secs(20);

/// Counts how often it is asked, and has something in hand until it is allowed to let go of it.
struct Slow {
    served: Arc<AtomicUsize>,
    releases: Receiver<()>,
    event: EventFd,
}

impl Service for Slow {
    fn serve(&mut self, _session: &mut Session) -> Result<Next, ServeError> {
        self.served.fetch_add(1, Ordering::SeqCst);
        Ok(Next::Event)
    }

    fn settle(&mut self) -> bool {
        self.releases.try_recv().is_ok()
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        // SAFETY: the descriptor is open as long as `self`.
        vec![unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }]
    }
}

fn spawn(name: &str, own: impl Service + Send + 'static) -> Worker {
    let filter = Lists::for_tests().rng;
    let (worker, ()) = Worker::spawn(name.into(), &[], || Made { own, filter, told: () }).unwrap();
    worker
}

struct Slowly {
    worker: Worker,
    served: Arc<AtomicUsize>,
    release: Sender<()>,
    event: EventFd,
}

fn slowly() -> Slowly {
    let served = Arc::<AtomicUsize>::default();
    let (release, releases) = mpsc::channel();
    let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let service = Slow { served: served.clone(), releases, event: event.try_clone().unwrap() };
    let worker = spawn("slow", service);
    Slowly { worker, served, release, event }
}

fn nothing() -> Activation {
    Activation { features: 0, queues: vec![], failure: DeviceFailure::default() }
}

impl Slowly {
    fn let_go(&self) {
        self.release.send(()).unwrap();
        self.event.write(1).unwrap();
    }
}

#[test]
fn a_worker_that_serves_nothing_has_stopped_already() {
    let mut slowly = slowly();
    assert!(slowly.worker.stop(Duration::ZERO));
}

#[test]
fn a_worker_has_stopped_only_when_nothing_is_in_hand() {
    let mut slowly = slowly();
    slowly.worker.start(nothing()).unwrap();
    assert!(!slowly.worker.stop(Duration::from_millis(1)));
    assert!(!slowly.worker.stop(Duration::ZERO));
    slowly.let_go();
    assert!(slowly.worker.stop(PATIENCE));
    assert!(slowly.worker.stop(Duration::ZERO));
}

#[test]
fn a_new_session_begins_only_when_nothing_of_the_old_one_is_in_hand() {
    let mut slowly = slowly();
    slowly.worker.start(nothing()).unwrap();
    assert!(!slowly.worker.stop(Duration::from_millis(1)));
    let before = slowly.served.load(Ordering::SeqCst);
    slowly.worker.start(nothing()).unwrap();
    assert!(!slowly.worker.stop(Duration::from_millis(1)));
    assert_eq!(slowly.served.load(Ordering::SeqCst), before);
    // Once for each session that may have begun.
    slowly.let_go();
    slowly.let_go();
    assert!(slowly.worker.stop(PATIENCE));
}

#[test]
fn a_service_that_panics_is_a_device_that_failed() {
    struct Broken;
    impl Service for Broken {
        fn serve(&mut self, _session: &mut Session) -> Result<Next, ServeError> {
            // Not a panic of its own, which would be printed.
            resume_unwind(Box::new("a bug"))
        }

        fn settle(&mut self) -> bool {
            true
        }

        fn events(&self) -> Vec<BorrowedFd<'_>> {
            vec![]
        }
    }
    let mut worker = spawn("broken", Broken);
    let failure = DeviceFailure::default();
    worker.start(Activation { failure: failure.clone(), ..nothing() }).unwrap();
    let begun = Instant::now();
    while !failure.is_told() && begun.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
    assert!(failure.is_told());
    assert!(worker.stop(PATIENCE));
    assert!(matches!(worker.start(nothing()), Err(ActivateError::NoThread)));
}
