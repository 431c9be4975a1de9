//! Somebody between client and server who changes what is said.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use crate::server::Server;

/// What was asked: method, path, and the headers' lines.
pub(crate) struct Asked {
    pub(crate) path: String,
    head: String,
}

impl Asked {
    pub(crate) fn has(&self, header: &str) -> bool {
        self.head.to_lowercase().contains(&format!("\r\n{header}:"))
    }

    /// Whether this is one of its headers' lines.
    pub(crate) fn says(&self, line: &str) -> bool {
        self.head.lines().any(|said| said == line)
    }

    /// Whom the client takes us for.
    pub(crate) fn host(&self) -> &str {
        self.head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default()
    }
}

pub(crate) struct Liar {
    pub(crate) address: String,
}

impl Liar {
    /// Asks the server what it is asked, and lets `lie` change each answer, head and all.
    pub(crate) fn before(
        server: &Server,
        lie: impl Fn(&Asked, Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (truth, lie) = (server.authority().to_owned(), Arc::new(lie));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (truth, lie) = (truth.clone(), Arc::clone(&lie));
                // A client that breaks off is what some of this is about.
                thread::spawn(move || answer(stream, &truth, &*lie));
            }
        });
        Self { address }
    }

    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

fn answer(
    mut stream: TcpStream,
    truth: &str,
    lie: &dyn Fn(&Asked, Vec<u8>) -> Vec<u8>,
) -> std::io::Result<()> {
    let mut head = String::new();
    let mut lines = BufReader::new(stream.try_clone()?);
    while !head.ends_with("\r\n\r\n") {
        if lines.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut server = TcpStream::connect(truth)?;
    // One question a connection.
    server.write_all(head.replacen("\r\n", "\r\nconnection: close\r\n", 1).as_bytes())?;
    let mut said = Vec::new();
    server.read_to_end(&mut said)?;
    stream.write_all(&lie(&Asked { path, head }, said))
}

/// An answer with this body, whatever it was before; the connection ends with it.
pub(crate) fn with_body(media_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Where an answer's body begins.
pub(crate) fn body_at(answer: &[u8]) -> usize {
    answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(answer.len(), |at| at + 4)
}
