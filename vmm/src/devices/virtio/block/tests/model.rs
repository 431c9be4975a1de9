//! A disk, whatever is asked of it on whichever queue, holds what a list of bytes would.

use super::*;

const SECTORS: usize = 64;
/// Each request of a batch has three descriptors of its queue's 16, and buffers of its own.
const BATCH: usize = 5;
const BUFFERS: u64 = 0x4_0000;
const BUFFER_STEP: u64 = 0x4000;

#[derive(Debug, Clone)]
enum Ask {
    Read,
    Write(u8),
    Zero(u32),
    Flush,
}

#[derive(Debug, Clone)]
struct Request {
    queue: u16,
    ask: Ask,
    sector: usize,
    sectors: usize,
}

fn any_request() -> impl Strategy<Value = Request> {
    let ask = prop_oneof![
        3 => Just(Ask::Read),
        3 => any::<u8>().prop_map(Ask::Write),
        1 => Just(Ask::Zero(DISCARD)),
        1 => Just(Ask::Zero(WRITE_ZEROES)),
        1 => Just(Ask::Flush),
    ];
    (0..QUEUES, ask, 0..SECTORS, 1usize..16).prop_map(|(queue, ask, sector, sectors)| Request {
        queue,
        ask,
        sector,
        sectors: sectors.min(SECTORS - sector),
    })
}

impl Request {
    fn bytes(&self) -> std::ops::Range<usize> {
        match self.ask {
            Ask::Flush => 0..0,
            _ => self.sector * 512..(self.sector + self.sectors) * 512,
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.bytes().start < other.bytes().end && other.bytes().start < self.bytes().end
    }
}

/// A driver that has several requests waiting at a time.
struct Driver {
    driven: Driven,
    offered: [u16; QUEUES as usize],
}

impl Driver {
    fn offer(&mut self, number: u16, request: &Request) {
        let place = &self.driven.place;
        let buffer = BUFFERS + u64::from(number) * BUFFER_STEP;
        let (header, status, data) = (buffer, buffer + 0x10, buffer + 0x20);
        let length = request.bytes().len() as u32;
        let (kind, middle) = match request.ask {
            Ask::Read => (READ, Some((length, WRITE))),
            Ask::Write(byte) => {
                place.memory.write_slice(&vec![byte; length as usize], GuestAddress(data)).unwrap();
                (WRITE_OUT, Some((length, 0)))
            }
            Ask::Zero(kind) => {
                place.write(data, request.sector as u64);
                place.write(data + 8, request.sectors as u32);
                place.write(data + 12, 0u32);
                (kind, Some((16, 0)))
            }
            Ask::Flush => (FLUSH, None),
        };
        place.write(header, kind);
        place.write(header + 8, request.sector as u64);
        place.write(status, UNTOUCHED);
        let first = number * 3;
        let mut chain = vec![(first, Descriptor::new(header, 16, NEXT, first + 1))];
        match middle {
            Some((length, flags)) => {
                chain.push((first + 1, Descriptor::new(data, length, NEXT | flags, first + 2)));
                chain.push((first + 2, status_at(status)));
            }
            None => chain.push((first + 1, status_at(status))),
        }
        place.describe(request.queue, &chain);
        let page = u64::from(request.queue) * PAGE;
        let index = &mut self.offered[usize::from(request.queue)];
        place.write(page + AVAILABLE + 4 + 2 * u64::from(*index % QUEUE), first);
        *index += 1;
        place.write(page + AVAILABLE + 2, *index);
    }

    /// Notifies the queues and waits until everything offered has been used.
    fn wait(&self, batch: &[Request]) {
        for request in batch {
            self.driven.block.queues()[usize::from(request.queue)].kick.write(1).unwrap();
        }
        let used = |queue: usize| -> u16 {
            let at = queue as u64 * PAGE + USED + 2;
            self.driven.place.memory.read_obj(GuestAddress(at)).unwrap()
        };
        while (0..usize::from(QUEUES)).any(|queue| used(queue) != self.offered[queue]) {
            self.driven.wait_for_call();
        }
    }

    fn status(&self, number: u16) -> u8 {
        let at = BUFFERS + u64::from(number) * BUFFER_STEP + 0x10;
        self.driven.place.memory.read_obj(GuestAddress(at)).unwrap()
    }

    fn data(&self, number: u16, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        let at = BUFFERS + u64::from(number) * BUFFER_STEP + 0x20;
        self.driven.place.memory.read_slice(&mut data, GuestAddress(at)).unwrap();
        data
    }
}

/// Of requests that touch the same bytes at the same time only one has an outcome to compare.
fn apart(batch: Vec<Request>) -> Vec<Request> {
    let mut kept: Vec<Request> = vec![];
    for request in batch {
        if kept.iter().all(|other| !other.overlaps(&request)) {
            kept.push(request);
        }
    }
    kept
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_disk_holds_what_a_list_of_bytes_would(batches in vec(vec(any_request(), 1..=BATCH), 1..12)) {
        for (engine, layered) in ENGINES.into_iter().flat_map(|engine| [(engine, false), (engine, true)]) {
            let place = if layered { Place::layered() } else { Place::new(false) };
            let mut driven = Driven::of(place, engine);
            driven.activate();
            let mut model = driven.content();
            let mut driver = Driver { driven, offered: [0; QUEUES as usize] };
            for batch in batches.clone().into_iter().map(apart) {
                for (number, request) in (0..).zip(&batch) {
                    driver.offer(number, request);
                }
                driver.wait(&batch);
                for (number, request) in (0..).zip(&batch) {
                    prop_assert_eq!(driver.status(number), OK);
                    let bytes = request.bytes();
                    match request.ask {
                        Ask::Read => prop_assert_eq!(&driver.data(number, bytes.len()), &model[bytes]),
                        Ask::Write(byte) => model[bytes].fill(byte),
                        Ask::Zero(_) => model[bytes].fill(0),
                        Ask::Flush => {}
                    }
                }
            }
            prop_assert_eq!(driver.driven.content(), model);
        }
    }
}
