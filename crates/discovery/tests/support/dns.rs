//! A name server on loopback (UDP and TCP) that answers what the test says and counts the questions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SOA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

/// How the server treats all questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// By its records; a name without any does not exist.
    #[default]
    Honest,
    /// SERVFAIL.
    Failing,
    /// No answer at all.
    Silent,
}

#[derive(Default)]
struct Zone {
    mood: Mood,
    records: HashMap<(String, RecordType), Vec<Record>>,
}

pub struct NameServer {
    pub at: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    questions: watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NameServer {
    pub async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
            // The same number may be taken on the other protocol.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("bound")).await {
                break (udp, tcp);
            }
        };
        let at = udp.local_addr().expect("bound");
        let zone = Arc::new(Mutex::new(Zone::default()));
        let (asked, questions) = watch::channel(0);
        let task = tokio::spawn(serve(udp, tcp, zone.clone(), asked));
        Self {
            at,
            zone,
            questions,
            task,
        }
    }

    pub fn mood(&self, mood: Mood) {
        self.zone.lock().expect("not poisoned").mood = mood;
    }

    /// Replaces the records of one kind of a name; an empty list leaves the name with no such record.
    pub fn set(&self, name: &str, kind: RecordType, ttl: u32, data: Vec<RData>) {
        let owner = fqdn(name);
        let records = data
            .into_iter()
            .map(|data| Record::from_rdata(owner.clone(), ttl, data))
            .collect();
        self.zone
            .lock()
            .expect("not poisoned")
            .records
            .insert((owner.to_utf8(), kind), records);
    }

    pub fn set_a(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let a = addresses
            .iter()
            .map(|ip| RData::A(A(ip.parse().expect("v4"))))
            .collect();
        self.set(name, RecordType::A, ttl, a);
    }

    pub fn set_aaaa(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let aaaa = addresses
            .iter()
            .map(|ip| RData::AAAA(AAAA(ip.parse().expect("v6"))))
            .collect();
        self.set(name, RecordType::AAAA, ttl, aaaa);
    }

    pub fn set_srv(&self, name: &str, ttl: u32, records: &[(u16, u16, u16, &str)]) {
        let srv = records.iter().map(|(priority, weight, port, target)| {
            RData::SRV(SRV::new(*priority, *weight, *port, fqdn(target)))
        });
        self.set(name, RecordType::SRV, ttl, srv.collect());
    }

    pub fn alias(&self, name: &str, ttl: u32, target: &str) {
        for kind in [RecordType::A, RecordType::AAAA] {
            self.set(name, kind, ttl, vec![RData::CNAME(CNAME(fqdn(target)))]);
        }
    }

    /// Removes a name.
    pub fn forget(&self, name: &str) {
        let owner = fqdn(name).to_utf8();
        self.zone
            .lock()
            .expect("not poisoned")
            .records
            .retain(|(known, _), _| *known != owner);
    }

    /// Questions so far.
    pub fn asked(&self) -> usize {
        *self.questions.borrow()
    }

    /// Waits until that many questions have been asked in all.
    pub async fn asked_at_least(&self, number: usize) {
        let mut questions = self.questions.clone();
        super::soon("a question", questions.wait_for(|asked| *asked >= number))
            .await
            .expect("the server runs");
    }
}

fn fqdn(name: &str) -> Name {
    let mut name = Name::from_utf8(name).expect("a name");
    name.set_fqdn(true);
    name
}

async fn serve(
    udp: UdpSocket,
    tcp: TcpListener,
    zone: Arc<Mutex<Zone>>,
    asked: watch::Sender<usize>,
) {
    let mut buffer = [0; 4096];
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Ok((length, from)) = udp.recv_from(&mut buffer) => {
                asked.send_modify(|asked| *asked += 1);
                if let Some(answer) = answer(&buffer[..length], &zone, true) {
                    let _ = udp.send_to(&answer, from).await;
                }
            }
            Ok((mut stream, _)) = tcp.accept() => {
                let (zone, asked) = (zone.clone(), asked.clone());
                connections.spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut question = vec![0; length.into()];
                        stream.read_exact(&mut question).await.ok()?;
                        asked.send_modify(|asked| *asked += 1);
                        let answer = answer(&question, &zone, false)?;
                        stream.write_u16(u16::try_from(answer.len()).expect("short")).await.ok()?;
                        stream.write_all(&answer).await.ok()?;
                    }
                    Some(())
                });
            }
        }
    }
}

fn answer(question: &[u8], zone: &Mutex<Zone>, udp: bool) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).expect("a question");
    let zone = zone.lock().expect("not poisoned");
    let query = question.queries.first().expect("one query").clone();
    let mut reply = Message::response(question.id, question.op_code);
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = true;
    reply.metadata.recursion_desired = question.recursion_desired;
    match zone.mood {
        Mood::Silent => return None,
        Mood::Failing => reply.metadata.response_code = ResponseCode::ServFail,
        Mood::Honest => {
            let mut name = query.name().to_lowercase();
            let mut answers: Vec<Record> = Vec::new();
            loop {
                let found = zone
                    .records
                    .get(&(name.to_utf8(), query.query_type()))
                    .cloned()
                    .unwrap_or_default();
                let alias = found.iter().find_map(|record| match &record.data {
                    RData::CNAME(target) => Some(target.0.clone()),
                    _ => None,
                });
                answers.extend(found);
                match alias {
                    Some(target) => name = target,
                    None => break,
                }
            }
            if answers.is_empty() {
                if !zone
                    .records
                    .keys()
                    .any(|(known, _)| *known == name.to_utf8())
                {
                    reply.metadata.response_code = ResponseCode::NXDomain;
                }
                // Its minimum is how long "no" may be kept.
                let soa = SOA::new(fqdn("ns.test"), fqdn("admin.test"), 1, 60, 60, 60, 1);
                reply.add_authority(Record::from_rdata(fqdn("test"), 1, RData::SOA(soa)));
            }
            for record in answers {
                reply.add_answer(record);
            }
        }
    }
    reply.add_query(query);
    let full = reply.to_vec().expect("an answer");
    if udp && full.len() > 1232 {
        let mut short = Message::response(reply.id, reply.op_code);
        short.metadata.truncation = true;
        short.add_query(reply.queries[0].clone());
        return Some(short.to_vec().expect("an answer"));
    }
    Some(full)
}
