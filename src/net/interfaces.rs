//! The addresses of this machine, for `samehost` and `samenet` in auth_hba_file.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use crate::config::hba::Net;

/// Every address of every interface with its mask; none where the kernel does not tell. A system call.
pub fn own_nets() -> Vec<Net> {
    let ip = |address: &SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    let interfaces = getifaddrs().into_iter().flatten();
    interfaces.filter_map(|one| Net::new(ip(one.address.as_ref()?)?, ip(one.netmask.as_ref()?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_one_of_ours() {
        let nets = own_nets();

        let loopback = nets.iter().find(|net| net.address() == IpAddr::from([127, 0, 0, 1]));
        assert!(loopback.is_some_and(|net| net.holds([127, 1, 2, 3].into())), "{nets:?}");
    }
}
