//! Who holds a port of this host: from `/proc/net/tcp` and the descriptors of the processes in `/proc`.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

/// A socket of `/proc/net/tcp` or `tcp6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    port: u16,
    listens: bool,
    uid: u32,
    inode: u64,
}

/// Whether we could listen on this port of 127.0.0.1.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// Who holds it, in words: the process, or what else is known.
pub fn of(port: u16) -> String {
    let sockets = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let all: Vec<Socket> = sockets.iter().flatten().flat_map(|text| sockets_in(text)).collect();
    let here = |listens| all.iter().find(|it| it.port == port && it.listens == listens);
    let Some(socket) = here(true).or_else(|| here(false)) else {
        return "a process that is gone by now".to_owned();
    };
    match process_with(socket.inode) {
        Some((pid, command)) => format!("pid {pid}, {command}"),
        None if socket.inode == 0 => "a connection that is being closed".to_owned(),
        // Of others' processes the descriptors are not ours to see.
        None => format!("a process of the user with id {}, which we may not see", socket.uid),
    }
}

fn sockets_in(text: &str) -> impl Iterator<Item = Socket> {
    // sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …
    text.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        Some(Socket {
            port: u16::from_str_radix(port, 16).ok()?,
            listens: *fields.get(3)? == "0A",
            uid: fields.get(7)?.parse().ok()?,
            inode: fields.get(9)?.parse().ok()?,
        })
    })
}

/// The process that has the socket, and what was typed to start it.
fn process_with(inode: u64) -> Option<(u32, String)> {
    let name = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut numbered =
        processes.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry)));
    let (pid, entry) = numbered.find(|(_, entry)| {
        let descriptors = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        descriptors.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| to == Path::new(&name))
    })?;
    let typed = fs::read(entry.path().join("cmdline")).unwrap_or_default();
    Some((pid, command_line(&typed)))
}

/// What a file `cmdline` says, as a line that is not too long.
fn command_line(arguments: &[u8]) -> String {
    const LONGEST: usize = 60;
    let text = String::from_utf8_lossy(arguments);
    let line: Vec<&str> = text.split(['\0', '\n']).filter(|word| !word.is_empty()).collect();
    let line = line.join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 0000000000000000 100 0 0 10 0
   1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 20 4 30 10 -1
   2: broken
";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000    33        0 99 1 0000000000000000 100 0 0 10 0
";

    #[test]
    fn the_sockets_of_the_kernel_are_read() {
        let listener = Socket { port: 8080, listens: true, uid: 1000, inode: 31337 };
        let connection = Socket { port: 50000, listens: false, uid: 0, inode: 4711 };
        assert_eq!(sockets_in(TCP).collect::<Vec<_>>(), [listener, connection]);
        let other = Socket { port: 80, listens: true, uid: 33, inode: 99 };
        assert_eq!(sockets_in(TCP6).collect::<Vec<_>>(), [other]);
    }

    #[test]
    fn who_holds_a_port_is_told_by_pid_and_program() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        assert!(!is_free(port));
        let told = of(port);
        assert!(told.starts_with(&format!("pid {}, ", std::process::id())), "{told}");
    }

    #[test]
    fn a_command_line_is_one_line_and_not_too_long() {
        assert_eq!(command_line(b"python3\0-m\0http.server\0"), "python3 -m http.server");
        assert_eq!(command_line(b"a\nb\0"), "a b");
        assert_eq!(command_line(&[b'x'; 100]).chars().count(), 61);
    }
}
