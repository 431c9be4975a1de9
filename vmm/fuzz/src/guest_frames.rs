//! What a guest says to its host over vsock, as the agent reads it.

use sublet_guest_protocol::{
    FrameError, FromGuest, JobEnd, JobId, JobProgress, PROTOCOL_VERSION, Stream, TunnelId, TunnelRefusal,
    encode, read_frame,
};

use crate::Seed;

/// Reads messages until there is none; what was read is written and read again as the same.
pub fn run(input: &[u8]) {
    let mut stream = input;
    loop {
        let before = stream.len();
        match read_frame::<FromGuest>(&mut stream) {
            Ok(message) => {
                assert!(stream.len() < before, "a message of no bytes");
                let again = read_frame::<FromGuest>(&mut encode(&message).unwrap().as_slice());
                assert!(again.is_ok_and(|again| again == message), "a message is not what was written of it");
            }
            Err(FrameError::Closed) => return assert_eq!(before, 0, "an end that is none"),
            Err(_) => return,
        }
    }
}

pub fn seeds() -> Vec<Seed> {
    let job = JobId([7; 16]);
    let jobs = vec![JobProgress { job, stdout_from: 0, stderr_from: 1 << 40 }];
    let messages = [
        FromGuest::Hello { version: PROTOCOL_VERSION, nonce: "00ff".repeat(8), jobs },
        FromGuest::Started { job },
        FromGuest::Output { job, stream: Stream::Stderr, offset: 300, bytes: b"hello\n".into() },
        FromGuest::Ended { job, end: JobEnd::Exited { code: 3 }, stdout_bytes: 6, stderr_bytes: 0 },
        FromGuest::TunnelRefused { tunnel: TunnelId(1 << 60), why: TunnelRefusal::PortSilent },
        FromGuest::Beat,
        FromGuest::Tunnel { nonce: "00ff".repeat(8), tunnel: TunnelId(7) },
    ];
    let frames: Vec<Vec<u8>> = messages.iter().map(|message| encode(message).unwrap()).collect();
    let too_long = [0xff; 8].to_vec();
    vec![("messages", frames.concat()), ("output", frames[2].clone()), ("too_long", too_long)]
}
