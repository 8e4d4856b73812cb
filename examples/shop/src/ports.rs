//! Which ports the shop has: the same ones every time, so that its URLs stay the same, or any that are free.

use std::net::TcpListener;

use crate::holder;

/// The ports of an instance: its app, and the sidecar beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub app: u16,
    pub inbound: u16,
    pub outbound: u16,
    pub admin: u16,
    pub metrics: u16,
    /// By which the app reaches its database and the broker, where they are not a file and memory.
    pub database: u16,
    pub amqp: u16,
}

/// How many an instance has.
pub const EACH: usize = 7;

impl From<[u16; EACH]> for Ports {
    fn from([app, inbound, outbound, admin, metrics, database, amqp]: [u16; EACH]) -> Self {
        Self { app, inbound, outbound, admin, metrics, database, amqp }
    }
}

impl Ports {
    /// Each with what it is for, before the name of the instance.
    pub const fn named(self) -> [(u16, &'static str); EACH] {
        [
            (self.app, ""),
            (self.inbound, "inbound of the sidecar of "),
            (self.outbound, "outbound of the sidecar of "),
            (self.admin, "admin of the sidecar of "),
            (self.metrics, "metrics of the sidecar of "),
            (self.database, "the way to the database of "),
            (self.amqp, "the way to the broker of "),
        ]
    }
}

/// The ports from `base` on, ten for each place: of place 0 the first.
pub fn block(base: u16, place: u16) -> Result<Ports, String> {
    let first = place.checked_mul(10).and_then(|offset| base.checked_add(offset));
    let first = first.filter(|first| first.checked_add(9).is_some());
    let first = first.ok_or_else(|| format!("--base-port {base} is too high; take a lower one"))?;
    let mut ports = first..;
    Ok(Ports::from([(); EACH].map(|()| ports.next().unwrap_or(first))))
}

/// So many that nobody has now: below those that the kernel gives to connections, any of which could take one before
/// we do.
pub fn free<const N: usize>() -> Result<[u16; N], String> {
    const TRIES: usize = 10_000;
    // All are held until all are known, or the same could be given twice.
    let mut held = Vec::with_capacity(N);
    for _ in 0..TRIES {
        if held.len() == N {
            break;
        }
        held.extend(TcpListener::bind(("127.0.0.1", fastrand::u16(20_000..32_000))));
    }
    let ports: Vec<u16> =
        held.iter().flat_map(TcpListener::local_addr).map(|it| it.port()).collect();
    ports.try_into().map_err(|_| format!("there are no {N} free ports from 20000 to 32000"))
}

/// A port that we are about to use.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    pub port: u16,
    pub purpose: String,
    /// By which option another one is chosen.
    pub option: &'static str,
}

/// Names all that somebody else has, and who.
pub fn check(wanted: &[Wanted]) -> Result<(), String> {
    let mut text = String::new();
    let mut options: Vec<&str> = Vec::new();
    for Wanted { port, purpose, option } in wanted {
        if !holder::is_free(*port) {
            let who = holder::of(*port);
            text.push_str(&format!("port {port}, for {purpose}, is in use: {who}\n"));
            if !options.contains(option) {
                options.push(option);
            }
        }
    }
    match options.is_empty() {
        true => Ok(()),
        false => {
            let options = options.join(" and ");
            Err(format!("{text}End that, or choose other ports by {options} (0: any)."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_instance_has_ten_ports_of_its_own() {
        let second = block(23000, 2).expect("room");
        assert_eq!((second.app, second.inbound, second.amqp), (23020, 23021, 23026));
        assert_eq!(block(65526, 0).expect("room").app, 65526);
        assert!(block(65527, 0).is_err());
        assert!(block(65500, 4).is_err());
    }

    #[test]
    fn free_ports_are_all_different() {
        let mut ports = free::<20>().expect("ports");
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[0] < pair[1]), "{ports:?}");
    }

    #[test]
    fn a_port_that_is_taken_is_named_with_its_purpose_and_the_option() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let wanted = Wanted { port, purpose: "the gateway".to_owned(), option: "--port" };
        let told = check(&[wanted]).expect_err("it is taken");
        let pid = std::process::id();
        let begin = format!("port {port}, for the gateway, is in use: pid {pid}, ");
        assert!(told.starts_with(&begin), "{told}");
        assert!(told.ends_with("\nEnd that, or choose other ports by --port (0: any)."), "{told}");
        drop(listener);
        assert_eq!(check(&[Wanted { port, purpose: String::new(), option: "--port" }]), Ok(()));
    }
}
