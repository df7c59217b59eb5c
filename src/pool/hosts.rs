//! Which of a database's hosts is connected to next: `load_balance_hosts`.
//!
//! Pure: no clock, lock, socket or task.

use crate::config::LoadBalanceHosts;

/// The place in one pool's list of hosts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hosts {
    at: usize,
}

impl Hosts {
    /// The index of the host to try now, of `count` (at least one). `last_failed` says how the pool's last attempt
    /// ended: with `load_balance_hosts = disable` a host is kept for as long as it works.
    pub fn next(&mut self, count: usize, balance: LoadBalanceHosts, last_failed: bool) -> usize {
        if count <= 1 {
            return 0;
        }
        match balance {
            LoadBalanceHosts::RoundRobin => {
                let chosen = self.at % count;
                self.at = (chosen + 1) % count;
                chosen
            }
            LoadBalanceHosts::Disable => {
                if last_failed {
                    self.at = (self.at + 1) % count;
                }
                self.at % count
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(balance: LoadBalanceHosts, failures: &[bool]) -> Vec<usize> {
        let mut hosts = Hosts::default();
        failures.iter().map(|&failed| hosts.next(3, balance, failed)).collect()
    }

    #[test]
    fn round_robin_goes_around() {
        assert_eq!(choose(LoadBalanceHosts::RoundRobin, &[false, false, true, false]), [0, 1, 2, 0]);
    }

    #[test]
    fn disable_sticks_to_a_host_until_it_fails() {
        assert_eq!(choose(LoadBalanceHosts::Disable, &[false, false, true, false, true, true]), [0, 0, 1, 1, 2, 0]);
    }

    #[test]
    fn a_shorter_list_after_a_reload_is_no_trouble() {
        let mut hosts = Hosts { at: 5 };
        assert!(hosts.next(2, LoadBalanceHosts::RoundRobin, false) < 2);
        assert_eq!(hosts.next(1, LoadBalanceHosts::RoundRobin, false), 0);
    }
}
