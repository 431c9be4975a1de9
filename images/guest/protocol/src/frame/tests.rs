use std::collections::BTreeMap;
use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::job::{ARGUMENTS_LIMIT, PATH_LIMIT, STDIN_LIMIT};
use crate::{
    FromGuest, FromHost, JobEnd, JobId, JobProgress, JobSpec, OUTPUT_CHUNK_LIMIT, Resume, Stream, TunnelId,
    TunnelRefusal,
};

fn job_ids() -> impl Strategy<Value = JobId> {
    any::<[u8; 16]>().prop_map(JobId)
}

fn streams() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)]
}

fn ends() -> impl Strategy<Value = JobEnd> {
    prop_oneof![
        any::<u8>().prop_map(|code| JobEnd::Exited { code }),
        any::<u8>().prop_map(|signal| JobEnd::Signaled { signal }),
        Just(JobEnd::OutOfMemory),
        Just(JobEnd::TimedOut),
        Just(JobEnd::Cancelled),
        any::<String>().prop_map(|reason| JobEnd::NotStarted { reason }),
    ]
}

fn specs() -> impl Strategy<Value = JobSpec> {
    let env = proptest::collection::btree_map(any::<String>(), any::<String>(), 0..4);
    let argv = proptest::collection::vec(any::<String>(), 0..4);
    (job_ids(), argv, env, any::<Option<String>>(), any::<Vec<u8>>(), any::<Option<u64>>()).prop_map(
        |(id, argv, env, working_directory, stdin, time_limit_ms)| JobSpec {
            id,
            argv,
            env,
            working_directory,
            stdin,
            time_limit_ms,
        },
    )
}

fn progress() -> impl Strategy<Value = JobProgress> {
    (job_ids(), any::<u64>(), any::<u64>()).prop_map(|(job, stdout_from, stderr_from)| JobProgress {
        job,
        stdout_from,
        stderr_from,
    })
}

fn tunnels() -> impl Strategy<Value = TunnelId> {
    any::<u64>().prop_map(TunnelId)
}

fn refusals() -> impl Strategy<Value = TunnelRefusal> {
    prop_oneof![
        Just(TunnelRefusal::PortClosed),
        Just(TunnelRefusal::PortSilent),
        Just(TunnelRefusal::TooMany),
        Just(TunnelRefusal::Failed),
    ]
}

fn from_guest() -> impl Strategy<Value = FromGuest> {
    let jobs = proptest::collection::vec(progress(), 0..4);
    prop_oneof![
        (any::<u32>(), any::<String>(), jobs).prop_map(|(version, nonce, jobs)| FromGuest::Hello {
            version,
            nonce,
            jobs
        }),
        job_ids().prop_map(|job| FromGuest::Started { job }),
        (job_ids(), streams(), any::<u64>(), any::<Vec<u8>>())
            .prop_map(|(job, stream, offset, bytes)| FromGuest::Output { job, stream, offset, bytes }),
        (job_ids(), ends(), any::<u64>(), any::<u64>()).prop_map(|(job, end, stdout_bytes, stderr_bytes)| {
            FromGuest::Ended { job, end, stdout_bytes, stderr_bytes }
        }),
        (any::<String>(), tunnels()).prop_map(|(nonce, tunnel)| FromGuest::Tunnel { nonce, tunnel }),
        (tunnels(), refusals()).prop_map(|(tunnel, why)| FromGuest::TunnelRefused { tunnel, why }),
        Just(FromGuest::Beat),
    ]
}

fn from_host() -> impl Strategy<Value = FromHost> {
    let resume = (job_ids(), any::<u64>(), any::<u64>()).prop_map(|(job, stdout, stderr)| Resume {
        job,
        stdout,
        stderr,
    });
    prop_oneof![
        proptest::collection::vec(resume, 0..4).prop_map(|resume| FromHost::Welcome { resume }),
        any::<String>().prop_map(|reason| FromHost::Refused { reason }),
        specs().prop_map(FromHost::Start),
        (job_ids(), streams(), any::<u64>()).prop_map(|(job, stream, offset)| FromHost::Acknowledge {
            job,
            stream,
            offset
        }),
        job_ids().prop_map(|job| FromHost::Cancel { job }),
        job_ids().prop_map(|job| FromHost::Forget { job }),
        (tunnels(), any::<u16>()).prop_map(|(tunnel, port)| FromHost::OpenTunnel { tunnel, port }),
        any::<u32>().prop_map(|every_ms| FromHost::Beat { every_ms }),
    ]
}

proptest! {
    #[test]
    fn what_the_guest_writes_the_host_reads(messages in proptest::collection::vec(from_guest(), 0..6)) {
        let mut wire = Vec::new();
        for message in &messages {
            write_frame(&mut wire, message).unwrap();
        }
        let mut wire = Cursor::new(wire);
        for message in messages {
            prop_assert_eq!(read_frame::<FromGuest>(&mut wire).unwrap(), message);
        }
        prop_assert!(matches!(read_frame::<FromGuest>(&mut wire), Err(FrameError::Closed)));
    }

    #[test]
    fn what_the_host_writes_the_guest_reads(message in from_host()) {
        let frame = encode(&message).unwrap();
        prop_assert_eq!(read_frame::<FromHost>(&mut frame.as_slice()).unwrap(), message);
    }

    #[test]
    fn arbitrary_bytes_are_an_error_or_a_message_and_never_a_panic(bytes: Vec<u8>) {
        let _ = decode::<FromGuest>(&bytes);
        let _ = decode::<FromHost>(&bytes);
        let _ = read_frame::<FromGuest>(&mut bytes.as_slice());
        let _ = read_frame::<FromHost>(&mut bytes.as_slice());
    }

    #[test]
    fn a_frame_cut_short_is_an_error(message in from_guest(), cut in any::<prop::sample::Index>()) {
        let frame = encode(&message).unwrap();
        let kept = 1 + cut.index(frame.len() - 1);
        prop_assert!(matches!(read_frame::<FromGuest>(&mut &frame[..kept]), Err(FrameError::Io(_))));
    }

    #[test]
    fn a_damaged_frame_never_panics(message in from_host(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut frame = encode(&message).unwrap();
        let at = at.index(frame.len());
        frame[at] ^= 1 << bit;
        let _ = read_frame::<FromHost>(&mut frame.as_slice());
    }
}

#[test]
fn bytes_after_a_message_are_refused() {
    let mut payload = encode(&FromHost::Cancel { job: JobId([7; 16]) }).unwrap().split_off(PREFIX_BYTES);
    payload.extend([1, 2, 3]);
    assert!(matches!(decode::<FromHost>(&payload), Err(FrameError::TrailingBytes(3))));
}

#[test]
fn a_frame_longer_than_the_limit_is_refused_before_anything_is_allocated_for_it() {
    let announced = u32::MAX.to_le_bytes();
    assert!(matches!(read_frame::<FromHost>(&mut announced.as_slice()), Err(FrameError::TooLong(_))));
    let within = u32::try_from(FRAME_LIMIT).unwrap();
    assert_eq!(announced_length(within.to_le_bytes()).unwrap(), FRAME_LIMIT);
    assert!(announced_length((within + 1).to_le_bytes()).is_err());
}

#[test]
fn a_message_longer_than_the_limit_is_not_written() {
    let message = FromHost::Refused { reason: "x".repeat(FRAME_LIMIT) };
    assert!(matches!(encode(&message), Err(FrameError::TooLong(_))));
}

#[test]
fn the_largest_job_and_the_largest_chunk_of_output_fit_in_a_frame() {
    let id = JobId([0; 16]);
    let spec = JobSpec {
        id,
        argv: vec!["x".repeat(ARGUMENTS_LIMIT)],
        env: BTreeMap::new(),
        working_directory: Some("/".repeat(PATH_LIMIT)),
        stdin: vec![255; STDIN_LIMIT],
        time_limit_ms: Some(u64::MAX),
    };
    assert!(encode(&FromHost::Start(spec)).is_ok());
    let bytes = vec![255; OUTPUT_CHUNK_LIMIT];
    let output = FromGuest::Output { job: id, stream: Stream::Stderr, offset: u64::MAX, bytes };
    assert!(encode(&output).is_ok());
}

/// The first byte of a message says which it is: one that is told from the others by another byte than it was in version 1
/// would be taken for something else by a peer of that version.
#[test]
fn messages_of_version_1_are_told_apart_as_they_were() {
    let job = JobId([7; 16]);
    let which = |frame: Vec<u8>| frame[PREFIX_BYTES];
    let ended = FromGuest::Ended { job, end: JobEnd::TimedOut, stdout_bytes: 0, stderr_bytes: 0 };
    assert_eq!(which(encode(&ended).unwrap()), 3);
    assert_eq!(which(encode(&FromHost::Forget { job }).unwrap()), 5);
}
