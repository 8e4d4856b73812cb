//! What all measurements share: the upstreams, the proxies' start, the place for their files.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::growth::Size;
use crate::machine;
use crate::options::Options;
use crate::ports::{Ports, Values};
use crate::process::{Process, spawn};
use crate::proxies::{Port, Proxy, Running, Start};

pub struct Bench {
    pub options: Options,
    /// `bench/compare`.
    pub folder: PathBuf,
    pub ports: Ports,
    pub values: Values,
    upstream: Process,
    work: PathBuf,
}

/// A proxy that has answered.
pub struct Answering {
    pub running: Running,
    /// From its start to its first answer.
    pub started_in: Duration,
    pub rss_at_start: u64,
}

impl Bench {
    /// `grown`: an upstream has to answer on all of 127.0.0.0/8.
    pub fn new(options: Options, folder: &Path, grown: bool) -> Result<Self, String> {
        let mut ports = Ports::new();
        let mut values = Values::new();
        let mut command = Command::new(folder.join("target/release/load"));
        command.arg("upstream");
        for (flag, name) in [("--http", "APP"), ("--echo", "ECHO"), ("--source", "BULK")] {
            for number in 1..=3 {
                let port = ports.free().map_err(|error| error.to_string())?;
                command.arg(flag).arg(format!("127.0.0.1:{port}"));
                values.insert(format!("{name}{number}"), port.to_string());
            }
        }
        if grown {
            let port = ports.free().map_err(|error| error.to_string())?;
            command.arg("--http").arg(format!("0.0.0.0:{port}"));
            values.insert("ANY".into(), port.to_string());
        }
        let work = folder.join("results").join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&work).map_err(|error| error.to_string())?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let core = [options.load_core];
        let mut upstream = spawn(&mut command, &core, &core)
            .map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))?;
        let mut ready = [0; 5];
        let said = upstream.child.stdout.as_mut().map(|stdout| stdout.read_exact(&mut ready));
        if !matches!(said, Some(Ok(()))) {
            return Err("the upstreams did not start".into());
        }
        Ok(Bench { options, folder: folder.into(), ports, values, upstream, work })
    }

    /// The cores of a proxy with so many workers; the last one is that of the load if there are no others.
    pub fn cores(&self, workers: usize) -> Vec<usize> {
        let (own, load) = (self.options.proxy_core, self.options.load_core);
        let others = (0..machine::cores()).filter(|core| *core != own && *core != load);
        std::iter::once(own).chain(others).chain([load]).take(workers).collect()
    }

    /// Starts a proxy, and waits until it answers.
    pub fn start(&mut self, proxy: &Proxy, workers: usize) -> Result<Answering, String> {
        self.start_grown(proxy, workers, Size::USUAL)
    }

    pub fn start_grown(
        &mut self,
        proxy: &Proxy,
        workers: usize,
        size: Size,
    ) -> Result<Answering, String> {
        if self.upstream.ended() {
            return Err("the upstreams have ended".into());
        }
        let folder = self.work.join(&proxy.label);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let cores = self.cores(workers);
        let began = Instant::now();
        let mut running = proxy.start(Start {
            ports: &mut self.ports,
            values: &self.values,
            folder: &folder,
            configs: &self.folder.join("config"),
            workers,
            size,
            cores: &cores,
            own: &[self.options.load_core],
        })?;
        let port = running.port(Port::Http1);
        while !answers(port) {
            if running.process.ended() || began.elapsed() > Duration::from_secs(10) {
                let said = fs::read_to_string(folder.join("stderr")).unwrap_or_default();
                return Err(format!("it did not start: {}", said.trim()));
            }
        }
        let started_in = began.elapsed();
        let rss_at_start = running.process.rss();
        Ok(Answering { running, started_in, rss_at_start })
    }

    /// A place for a file, on a disk.
    pub fn file(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// The log of a run at full speed is large.
    pub fn clean(&self, proxy: &Proxy) {
        let _ = fs::remove_dir_all(self.work.join(&proxy.label));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.work);
    }
}

/// Is a request answered with 200?
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(&status == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}
