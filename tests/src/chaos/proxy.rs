//! A proxy that does to connections what networks do.
//!
//! Nothing is decoded. Each direction has a gate: bytes pass, wait, or pass late.
//! What waits is not lost, as behind a firewall that drops packets for a while:
//! the sender's system would send it again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

const CHUNK: usize = 16 << 10;

/// Where connections lead.
#[derive(Clone, Debug)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What happens to bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    #[default]
    Pass,
    /// They wait.
    Hold,
    /// They pass late.
    Delay(Duration),
}

/// What happens to connections; those below a number are older than something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mode {
    up: Gate,
    down: Gate,
    /// Silent for ever, and never closed.
    frozen_below: u64,
    /// Closed now.
    cut_below: u64,
}

/// What a proxy has done.
#[derive(Debug, Default)]
pub struct Counts {
    pub connections: AtomicU64,
    pub passed_up: AtomicU64,
    pub passed_down: AtomicU64,
    pub held_up: AtomicU64,
    pub held_down: AtomicU64,
    pub delayed: AtomicU64,
    pub frozen: AtomicU64,
    pub cut: AtomicU64,
    pub cut_in_answer: AtomicU64,
    pub cut_at_commit: AtomicU64,
}

/// Answers that are not to arrive.
#[derive(Debug, Default)]
struct Traps {
    in_answer: AtomicU64,
    at_commit: AtomicU64,
}

/// A listener whose connections lead to a target. It ends with this value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    counts: Arc<Counts>,
    traps: Arc<Traps>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of this machine alone.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(target: Target) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (mode, modes) = watch::channel(Mode::default());
        let (counts, traps) = (Arc::new(Counts::default()), Arc::new(Traps::default()));
        let task = tokio::spawn(serve(listener, target, modes, counts.clone(), traps.clone()));
        Ok(Proxy { address, mode, counts, traps, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What happens to requests and to answers from now on.
    pub fn gate(&self, up: Gate, down: Gate) {
        self.mode.send_modify(|mode| (mode.up, mode.down) = (up, down));
    }

    /// All passes again; connections that were frozen stay so.
    pub fn heal(&self) {
        self.gate(Gate::Pass, Gate::Pass);
        self.traps.in_answer.store(0, Ordering::Relaxed);
        self.traps.at_commit.store(0, Ordering::Relaxed);
    }

    fn made(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed) + 1
    }

    /// Closes all connections.
    pub fn cut(&self) {
        let made = self.made();
        self.mode.send_modify(|mode| mode.cut_below = made);
    }

    /// Connections of now fall silent and stay open; new ones are as usual.
    pub fn freeze(&self) {
        let made = self.made();
        self.mode.send_modify(|mode| mode.frozen_below = made);
    }

    /// The next answers break off in their middle.
    pub fn cut_in_answers(&self, count: u64) {
        self.traps.in_answer.store(count, Ordering::Relaxed);
    }

    /// Of Postgres: the next commits happen, and their clients do not learn it.
    pub fn cut_at_commits(&self, count: u64) {
        self.traps.at_commit.store(count, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    target: Target,
    modes: watch::Receiver<Mode>,
    counts: Arc<Counts>,
    traps: Arc<Traps>,
) {
    // Connections end with this task.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else { continue };
        let id = counts.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let pipe = Pipe { id, modes: modes.clone(), counts: counts.clone(), traps: traps.clone() };
        connections.spawn(pipe.connect(client, target.clone()));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// One connection.
#[derive(Clone)]
struct Pipe {
    id: u64,
    modes: watch::Receiver<Mode>,
    counts: Arc<Counts>,
    traps: Arc<Traps>,
}

impl Pipe {
    async fn connect(mut self, client: TcpStream, target: Target) {
        let _ = client.set_nodelay(true);
        if !self.may_pass(Way::Up, 0).await {
            return;
        }
        match target {
            Target::Tcp(address) => {
                let Ok(server) = TcpStream::connect(address).await else { return };
                let _ = server.set_nodelay(true);
                self.run(client, server).await;
            }
            Target::Unix(path) => {
                let Ok(server) = UnixStream::connect(path).await else { return };
                self.run(client, server).await;
            }
        }
    }

    async fn run<C, S>(self, client: C, server: S)
    where
        C: AsyncRead + AsyncWrite,
        S: AsyncRead + AsyncWrite,
    {
        let (from_client, to_client) = tokio::io::split(client);
        let (from_server, to_server) = tokio::io::split(server);
        let up = self.clone().pump(Way::Up, from_client, to_server);
        let down = self.clone().pump(Way::Down, from_server, to_client);
        tokio::select! {
            () = up => {}
            () = down => {}
        }
        // One side's end is that of both, once the other can learn of it.
        let (id, mut modes) = (self.id, self.modes.clone());
        let learns = |mode: &Mode| {
            let open = mode.up != Gate::Hold && mode.down != Gate::Hold;
            mode.frozen_below <= id && (open || mode.cut_below > id)
        };
        let _ = modes.wait_for(learns).await;
    }

    async fn pump<R, W>(mut self, way: Way, mut from: R, mut to: W)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = tokio::select! {
                read = from.read(&mut chunk) => read,
                () = self.until_cut() => return,
            };
            let Ok(length @ 1..) = read else { return };
            if !self.may_pass(way, length as u64).await {
                return;
            }
            let bytes = &chunk[..length];
            if way == Way::Down && self.is_trapped(bytes, &mut to).await {
                return;
            }
            if to.write_all(bytes).await.is_err() {
                return;
            }
            let counts = &self.counts;
            let passed = if way == Way::Up { &counts.passed_up } else { &counts.passed_down };
            passed.fetch_add(length as u64, Ordering::Relaxed);
        }
    }

    /// Waits until bytes may pass; false if the connection is cut.
    async fn may_pass(&mut self, way: Way, length: u64) -> bool {
        let (mut held, mut frozen) = (false, false);
        loop {
            let mode = *self.modes.borrow_and_update();
            if mode.cut_below > self.id {
                self.counts.cut.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            let gate = if way == Way::Up { mode.up } else { mode.down };
            if mode.frozen_below > self.id {
                if !std::mem::replace(&mut frozen, true) {
                    self.counts.frozen.fetch_add(1, Ordering::Relaxed);
                }
            } else {
                match gate {
                    Gate::Pass => return true,
                    Gate::Delay(time) => {
                        self.counts.delayed.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(time).await;
                        return true;
                    }
                    Gate::Hold if !std::mem::replace(&mut held, true) => {
                        let counts = &self.counts;
                        let count = if way == Way::Up { &counts.held_up } else { &counts.held_down };
                        count.fetch_add(length.max(1), Ordering::Relaxed);
                    }
                    Gate::Hold => {}
                }
            }
            if self.modes.changed().await.is_err() {
                return false;
            }
        }
    }

    async fn until_cut(&mut self) {
        let id = self.id;
        // Pending for ever once there is nobody to cut it.
        if self.modes.wait_for(|mode| mode.cut_below > id && mode.frozen_below <= id).await.is_err() {
            std::future::pending::<()>().await;
        }
        self.counts.cut.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether this answer does not arrive, or only its first half.
    async fn is_trapped<W: AsyncWrite + Unpin>(&self, bytes: &[u8], to: &mut W) -> bool {
        if bytes.windows(7).any(|part| part == b"COMMIT\0") && take(&self.traps.at_commit) {
            self.counts.cut_at_commit.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        if bytes.len() > 20 && take(&self.traps.in_answer) {
            let _ = to.write_all(&bytes[..bytes.len() / 2]).await;
            let _ = to.flush().await;
            self.counts.cut_in_answer.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        false
    }
}

fn take(count: &AtomicU64) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = peer.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn says(stream: &mut TcpStream, text: &[u8]) -> Vec<u8> {
        stream.write_all(text).await.unwrap();
        let mut answer = vec![0; 64];
        let read = stream.read(&mut answer).await.unwrap_or(0);
        answer[..read].to_vec()
    }

    #[tokio::test]
    async fn bytes_wait_at_a_gate_and_pass_when_it_opens() {
        let proxy = Proxy::start(Target::Tcp(echo().await)).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut stream, b"one").await, b"one");
        proxy.gate(Gate::Pass, Gate::Hold);
        {
            let waiting = says(&mut stream, b"two");
            tokio::pin!(waiting);
            tokio::select! {
                answer = &mut waiting => panic!("{answer:?} passed a closed gate"),
                () = async {
                    while proxy.counts().held_down.load(Ordering::Relaxed) == 0 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                } => {}
            }
            proxy.heal();
            assert_eq!(waiting.await, b"two");
        }
        proxy.cut();
        assert_eq!(says(&mut stream, b"three").await, b"");
        assert!(proxy.counts().cut.load(Ordering::Relaxed) > 0);
    }

    #[tokio::test]
    async fn a_frozen_connection_stays_open_and_silent_and_a_new_one_does_not() {
        let proxy = Proxy::start(Target::Tcp(echo().await)).await.unwrap();
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut old, b"one").await, b"one");
        proxy.freeze();
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut new, b"new").await, b"new");
        let silent = tokio::time::timeout(Duration::from_millis(300), says(&mut old, b"two")).await;
        assert!(silent.is_err(), "a frozen connection gave {silent:?}");
        assert!(proxy.counts().frozen.load(Ordering::Relaxed) > 0);
    }

    #[tokio::test]
    async fn an_answer_breaks_off_in_its_middle_once() {
        let proxy = Proxy::start(Target::Tcp(echo().await)).await.unwrap();
        proxy.cut_in_answers(1);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let text = b"twenty-four letters here";
        assert_eq!(says(&mut stream, text).await, &text[..12]);
        let mut next = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut next, text).await, text);
    }
}
