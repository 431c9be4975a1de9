use proptest::prelude::*;

use super::*;

#[test]
fn what_was_pushed_is_sent_once_in_order() {
    let mut output = Output::default();
    output.push(b"hello ");
    assert_eq!(output.next_chunk(), Some((0, b"hello ".to_vec())));
    output.push(b"world");
    assert_eq!(output.next_chunk(), Some((6, b"world".to_vec())));
    assert_eq!(output.next_chunk(), None);
}

#[test]
fn after_rewinding_what_was_not_acknowledged_is_sent_again() {
    let mut output = Output::default();
    output.push(b"hello world");
    output.next_chunk();
    output.acknowledge(6).unwrap();
    output.rewind();
    assert_eq!(output.next_chunk(), Some((6, b"world".to_vec())));
}

#[test]
fn a_chunk_is_never_longer_than_the_protocol_allows() {
    let mut output = Output::default();
    output.push(&vec![1; OUTPUT_CHUNK_LIMIT + 1]);
    assert_eq!(output.next_chunk().unwrap().1.len(), OUTPUT_CHUNK_LIMIT);
    assert_eq!(output.next_chunk().unwrap().1.len(), 1);
}

#[test]
fn an_acknowledgement_makes_room() {
    let mut output = Output::default();
    output.push(&vec![1; UNACKNOWLEDGED_LIMIT]);
    assert_eq!(output.room(), 0);
    output.acknowledge(10).unwrap();
    assert_eq!(output.room(), 10);
}

#[test]
fn more_than_was_written_cannot_be_acknowledged() {
    let mut output = Output::default();
    output.push(b"abc");
    assert_eq!(output.acknowledge(4), Err(BeyondEnd { offset: 4, end: 3 }));
    assert_eq!(output.first(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Push(Vec<u8>),
    Send,
    Acknowledge(prop::sample::Index),
    Reconnect,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(Step::Push),
        Just(Step::Send),
        any::<prop::sample::Index>().prop_map(Step::Acknowledge),
        Just(Step::Reconnect),
    ]
}

/// The host's side: everything it has received, contiguous from 0, and how much of it is acknowledged.
#[derive(Default)]
struct Host {
    received: Vec<u8>,
    acknowledged: usize,
}

impl Host {
    fn receive(&mut self, chunk: Option<(u64, Vec<u8>)>) {
        let Some((offset, bytes)) = chunk else { return };
        assert_eq!(offset, self.received.len() as u64, "a gap or an overlap");
        self.received.extend(bytes);
    }

    fn acknowledge(&mut self, index: prop::sample::Index, output: &mut Output) {
        self.acknowledged = self.acknowledged.max(index.index(self.received.len() + 1));
        output.acknowledge(self.acknowledged as u64).unwrap();
    }

    /// It loses what it had not made durable.
    fn reconnect(&mut self, output: &mut Output) {
        self.received.truncate(self.acknowledged);
        output.rewind();
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_or_doubled_whatever_breaks(steps in proptest::collection::vec(steps(), 0..100)) {
        let (mut output, mut host, mut written) = (Output::default(), Host::default(), Vec::new());
        for step in steps {
            match step {
                Step::Push(bytes) => { output.push(&bytes); written.extend(bytes); }
                Step::Send => host.receive(output.next_chunk()),
                Step::Acknowledge(index) => host.acknowledge(index, &mut output),
                Step::Reconnect => host.reconnect(&mut output),
            }
        }
        while let Some(chunk) = output.next_chunk() {
            host.receive(Some(chunk));
        }
        prop_assert_eq!(host.received, written);
    }
}
