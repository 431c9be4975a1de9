//! The control socket: what the VMM hears, and what whoever talks to it reads. The first byte says in pieces of how many
//! bytes the rest arrives.

use std::{
    io::{BufReader, Read, Write},
    os::unix::net::UnixStream,
};

use serde::{Serialize, de::DeserializeOwned};
use sublet_vmm::control::{Asked, Connection, refusal};
use sublet_vmm_protocol::{
    BaseSource, BootSource, LINE_LIMIT, LineError, MachineState, PROTOCOL_VERSION, RefusalCode, Reply,
    Request, Status, Wanted, read_line, write_line,
};

use crate::Seed;

pub fn run(input: &[u8]) {
    let (piece, stream) = input.split_first().unwrap_or((&0, &[]));
    heard(stream, usize::from(*piece) + 1);
    read_back::<Request>(stream);
    read_back::<Reply>(stream);
}

/// Has the VMM hear all this; each line is a request or refused, as if it had come alone.
fn heard(stream: &[u8], piece: usize) {
    let (near, mut far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let mut connection = Connection::new(near);
    let mut lines = stream.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    for piece in stream.chunks(piece) {
        far.write_all(piece).unwrap();
        if let Err(error) = connection.receive() {
            assert!(stream.len() > LINE_LIMIT, "{error}");
            return;
        }
        while let Some(asked) = connection.next_request() {
            check(&asked, lines.next().expect("a request that nobody sent"));
            answer(&mut connection, &mut far);
        }
    }
    assert!(lines.next().is_none(), "a line was not heard");
}

fn check(asked: &Asked, line: &[u8]) {
    match (&asked.request, alone(line)) {
        (Ok(request), Ok(alone)) => assert_eq!(*request, alone),
        (Err(refused), Ok(alone)) => {
            let is_other = version(&alone) != PROTOCOL_VERSION;
            assert!(is_other && refused.code == RefusalCode::UnsupportedVersion, "{refused:?}");
        }
        (Ok(request), Err(error)) => panic!("{request:?} was heard where there is none: {error}"),
        (Err(_), Err(_)) => {}
    }
}

fn alone(line: &[u8]) -> Result<Request, LineError> {
    read_line(&mut BufReader::new(line))
}

fn version(request: &Request) -> u32 {
    match request {
        Request::Status { version }
        | Request::Wait { version, .. }
        | Request::Boot { version, .. }
        | Request::Stop { version }
        | Request::Kill { version }
        | Request::StopAt { version, .. }
        | Request::Wanted { version, .. }
        | Request::Arrived { version, .. }
        | Request::Release { version } => *version,
    }
}

/// The next request is taken only once this one is answered.
fn answer(connection: &mut Connection, far: &mut UnixStream) {
    connection.reply(&Reply::Refused(refusal(RefusalCode::NotAllowedNow, "no".into()))).unwrap();
    assert!(!connection.has_unsent(), "an answer waits though there is room for it");
    let mut answer = [0; 256];
    let count = far.read(&mut answer).unwrap();
    assert!(answer[..count].ends_with(b"\n"), "an answer is one line");
}

/// Reads messages until there is none; what was read is written and read again as the same.
fn read_back<T: Serialize + DeserializeOwned + PartialEq>(stream: &[u8]) {
    let mut reader = BufReader::new(stream);
    while let Ok(message) = read_line::<T>(&mut reader) {
        let mut line = vec![];
        write_line(&mut line, &message).unwrap();
        let again = read_line::<T>(&mut BufReader::new(line.as_slice()));
        assert!(again.is_ok_and(|again| again == message), "a message is not what was written of it");
    }
}

fn seed<T: Serialize>(piece: u8, messages: &[T]) -> Vec<u8> {
    messages.iter().fold(vec![piece], |mut input, message| {
        write_line(&mut input, message).unwrap();
        input
    })
}

pub fn seeds() -> Vec<Seed> {
    let version = PROTOCOL_VERSION;
    let base = Some(BaseSource { disk: 0, bytes: 1 << 20, is_arriving: true });
    let source = BootSource { has_initrd: true, command_line: "console=ttyS0".into(), base };
    let requests = [
        Request::Status { version },
        Request::Wait { version, after: 7 },
        Request::Boot { version, source },
        Request::Stop { version },
        Request::Kill { version },
        Request::StopAt { version, boottime_ns: Some(1 << 40) },
        Request::StopAt { version: version + 1, boottime_ns: None },
        Request::Wanted { version, after: 3 },
        Request::Arrived { version, failed: vec![1, 1 << 20] },
        Request::Release { version },
    ];
    let status = Status {
        version,
        name: "p1".into(),
        generation: 1,
        state: MachineState::Running { since_boottime_ns: 5 },
        disks: vec![],
        stop_at_boottime_ns: None,
    };
    let replies = [
        Reply::Status(status),
        Reply::Wanted(Wanted { generation: 4, chunks: vec![0, 7] }),
        Reply::Refused(refusal(RefusalCode::Malformed, "not a request".into())),
    ];
    vec![
        ("requests", seed(255, &requests)),
        ("requests_in_pieces", seed(6, &requests)),
        ("replies", seed(255, &replies)),
        ("no_request", b"\x05{\"request\":\"fly\",\"version\":1}\n\n{}\n[1".to_vec()),
    ]
}
