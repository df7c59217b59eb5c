//! Questions to name servers, and what their answers mean.
//!
//! The servers of `resolv.conf` are asked in its order, each for its `timeout`, all of them `attempts` times, as the C
//! library does; `domain` speaks the protocol. Answers are kept by [`super::cache`], not here.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use domain::base::iana::{Rcode, Rtype};
use domain::base::{Message, Name, ParsedName};
use domain::rdata::{A, Aaaa, Ptr, Soa};
use domain::resolv::StubResolver;
use domain::resolv::stub::Answer;
use domain::resolv::stub::conf::{ResolvConf as StubConf, ServerConf, Transport};

use super::cache::Failure;
use super::files::ResolvConf;

/// The name servers of one `resolv.conf`. Its tasks belong to the runtime that asks first, and end when it is dropped.
#[derive(Debug)]
pub(super) struct Resolver {
    conf: ResolvConf,
    /// One for each server: they are asked in order, never by speed, since the second may know less than the first.
    servers: Vec<StubResolver>,
}

impl Resolver {
    pub(super) fn new(conf: ResolvConf) -> Resolver {
        let transport = if conf.tcp { Transport::Tcp } else { Transport::UdpTcp };
        let stub = |server: &std::net::SocketAddr| {
            let mut stub = StubConf::new();
            stub.servers = vec![ServerConf::new(*server, transport)];
            stub.options.timeout = conf.timeout;
            stub.finalize();
            StubResolver::from_conf(stub)
        };
        Resolver { servers: conf.servers.iter().map(stub).collect(), conf }
    }

    pub(super) fn conf(&self) -> &ResolvConf {
        &self.conf
    }

    /// The addresses of a name, of both families.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let mut no_answer = None;
        for name in self.candidates(name) {
            let (v6, v4) = tokio::join!(self.ask(&name, Rtype::AAAA, v6_of), self.ask(&name, Rtype::A, v4_of));
            // One family will do, whatever became of the other.
            let mut found = Vec::new();
            for reply in [v6, v4] {
                match reply {
                    Ok(addresses) => found.extend(addresses.unwrap_or_default()),
                    Err(failure) => no_answer = Some(failure),
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Err(not_found(no_answer))
    }

    /// The names of an address, whether or not they lead back to it.
    pub(super) async fn names(&self, address: IpAddr) -> Result<Vec<String>, Failure> {
        let name = Name::reverse_from_addr(address).map_err(|_| Failure::NoAddress("it has no name".into()))?;
        match self.ask(&name, Rtype::PTR, names_of).await {
            Ok(names) => Ok(names.unwrap_or_default()),
            Err(failure) => Err(Failure::NoAnswer(failure)),
        }
    }

    /// The serial number of the zone a name is in.
    pub(super) async fn serial(&self, zone: &str) -> Result<u32, Failure> {
        let mut no_answer = None;
        for name in self.candidates(zone) {
            match self.ask(&name, Rtype::SOA, serial_of).await {
                Ok(Some(serial)) => return Ok(serial),
                Ok(None) => {}
                Err(failure) => no_answer = Some(failure),
            }
        }
        Err(not_found(no_answer))
    }

    /// The names that `name` may stand for, one after the other.
    fn candidates(&self, name: &str) -> Vec<Name<Vec<u8>>> {
        self.conf.candidates(name).iter().filter_map(|candidate| Name::from_str(candidate).ok()).collect()
    }

    /// Asks one question of one server after the other, until one answers. Nothing: there is no such name, or it has
    /// nothing of the kind.
    async fn ask<T>(
        &self,
        name: &Name<Vec<u8>>,
        kind: Rtype,
        read: fn(&Message<[u8]>) -> Option<T>,
    ) -> Result<Option<T>, Arc<str>> {
        let mut failure = String::new();
        for _ in 0..self.conf.attempts {
            for (stub, server) in self.servers.iter().zip(&self.conf.servers) {
                let answer: Answer = match stub.query((name, kind)).await {
                    Ok(answer) => answer,
                    Err(error) => {
                        failure = format!("name server {server}: {error}");
                        continue;
                    }
                };
                match answer.header().rcode() {
                    Rcode::NOERROR | Rcode::NXDOMAIN => {
                        return Ok(read(answer.for_slice()));
                    }
                    code => failure = format!("name server {server} says {code}"),
                }
            }
        }
        Err(failure.into())
    }
}

fn not_found(no_answer: Option<Arc<str>>) -> Failure {
    match no_answer {
        Some(failure) => Failure::NoAnswer(failure),
        None => Failure::NoAddress("there is no such name".into()),
    }
}

fn v4_of(answer: &Message<[u8]>) -> Option<Vec<IpAddr>> {
    let name = answer.canonical_name()?;
    let records = answer.answer().ok()?.limit_to_in::<A>().filter_map(Result::ok);
    let addresses = records.filter(|record| record.owner() == &name).map(|record| record.data().addr().into());
    Some(addresses.collect()).filter(|addresses: &Vec<_>| !addresses.is_empty())
}

fn v6_of(answer: &Message<[u8]>) -> Option<Vec<IpAddr>> {
    let name = answer.canonical_name()?;
    let records = answer.answer().ok()?.limit_to_in::<Aaaa>().filter_map(Result::ok);
    let addresses = records.filter(|record| record.owner() == &name).map(|record| record.data().addr().into());
    Some(addresses.collect()).filter(|addresses: &Vec<_>| !addresses.is_empty())
}

fn names_of(answer: &Message<[u8]>) -> Option<Vec<String>> {
    let name = answer.canonical_name()?;
    let records = answer.answer().ok()?.limit_to_in::<Ptr<ParsedName<_>>>().filter_map(Result::ok);
    let names = records.filter(|record| record.owner() == &name).map(|record| record.data().ptrdname().to_string());
    Some(names.collect())
}

/// Of the answer, or where the name is inside a zone and not its top, of the zone that the server names (RFC 2308).
fn serial_of(answer: &Message<[u8]>) -> Option<u32> {
    let own = answer.answer().ok()?.limit_to_in::<Soa<ParsedName<_>>>().find_map(Result::ok);
    let found = match own {
        Some(record) => record,
        None => answer.authority().ok()?.limit_to_in::<Soa<ParsedName<_>>>().find_map(Result::ok)?,
    };
    Some(found.data().serial().into_int())
}

#[cfg(test)]
mod tests {
    use domain::base::MessageBuilder;
    use domain::base::iana::Class;
    use domain::rdata::Cname;
    use proptest::prelude::*;

    use super::*;

    type Owned = Name<Vec<u8>>;

    fn name(text: &str) -> Owned {
        Name::from_str(text).unwrap()
    }

    fn a(last: u8) -> A {
        A::new([10, 0, 0, last].into())
    }

    /// The answer to a question for `db.test.`; `fill` writes its records.
    fn answer(fill: impl FnOnce(&mut domain::base::message_builder::AnswerBuilder<Vec<u8>>)) -> Message<Vec<u8>> {
        let mut question = MessageBuilder::new_vec().question();
        question.push((name("db.test."), Rtype::A)).unwrap();
        let mut answer = question.answer();
        fill(&mut answer);
        answer.into_message()
    }

    #[test]
    fn an_alias_is_followed_and_what_belongs_to_others_is_not_taken() {
        let message = answer(|answer| {
            answer.push((name("db.test."), Class::IN, 60, Cname::new(name("real.test.")))).unwrap();
            answer.push((name("other.test."), Class::IN, 60, a(9))).unwrap();
            answer.push((name("real.test."), Class::IN, 60, a(1))).unwrap();
            answer.push((name("real.test."), Class::IN, 60, a(2))).unwrap();
        });

        let addresses: Vec<IpAddr> = vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        assert_eq!(v4_of(message.for_slice()), Some(addresses));
        assert_eq!(v6_of(message.for_slice()), None);
        assert_eq!(serial_of(message.for_slice()), None);
    }

    #[test]
    fn an_address_may_have_several_names() {
        let message = answer(|answer| {
            answer.push((name("db.test."), Class::IN, 60, Ptr::new(name("a.test.")))).unwrap();
            answer.push((name("other.test."), Class::IN, 60, Ptr::new(name("b.test.")))).unwrap();
            answer.push((name("db.test."), Class::IN, 60, Ptr::new(name("c.test.")))).unwrap();
        });

        assert_eq!(names_of(message.for_slice()), Some(vec!["a.test".to_owned(), "c.test".to_owned()]));
        assert_eq!(names_of(answer(|_| {}).for_slice()), Some(Vec::new()));
    }

    #[test]
    fn inside_a_zone_its_serial_number_is_the_one_the_server_names() {
        let soa = |serial: u32| {
            let (seconds, serial) = (domain::base::Ttl::from_secs(60), domain::base::Serial(serial));
            Soa::new(name("ns.test."), name("admin.test."), serial, seconds, seconds, seconds, seconds)
        };
        let top = answer(|answer| answer.push((name("test."), Class::IN, 60, soa(7))).unwrap());
        let mut inside = answer(|_| {}).into_octets();
        assert_eq!(serial_of(Message::from_slice(&inside).unwrap()), None);
        let mut builder = MessageBuilder::new_vec().question();
        builder.push((name("db.test."), Rtype::SOA)).unwrap();
        let mut authority = builder.authority();
        authority.push((name("test."), Class::IN, 60, soa(8))).unwrap();
        inside.clone_from(&authority.into_message().into_octets());

        assert_eq!(serial_of(top.for_slice()), Some(7));
        assert_eq!(serial_of(Message::from_slice(&inside).unwrap()), Some(8));
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 12..200), counts in 0u8..8) {
            let mut bytes = bytes;
            // So many questions and records, or else most answers end at their header.
            for at in [4, 6, 8, 10] {
                bytes[at] = 0;
                bytes[at + 1] = counts;
            }
            if let Ok(message) = Message::from_octets(bytes) {
                v4_of(message.for_slice());
                v6_of(message.for_slice());
                names_of(message.for_slice());
                serial_of(message.for_slice());
            }
        }
    }
}
