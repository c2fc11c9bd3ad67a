//! A DNS server on loopback that answers from a table.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record};
use tokio::net::UdpSocket;
use tokio_util::task::AbortOnDropHandle;
use tokio_util::task::TaskTracker;

/// The server; it ends with its test.
pub struct Dns {
    pub addr: SocketAddr,
    records: Arc<Mutex<Vec<Record>>>,
    _server: AbortOnDropHandle<()>,
}

impl Dns {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let records = Arc::new(Mutex::new(Vec::<Record>::new()));
        let known = records.clone();
        let server = TaskTracker::new().spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let asked = query.queries[0].clone();
                let mut response = query.into_response();
                let all = known.lock().unwrap().clone();
                let of_name = all.iter().filter(|record| record.name == *asked.name());
                let answers = of_name
                    .clone()
                    .filter(|one| one.record_type() == asked.query_type());
                response.answers = answers.cloned().collect();
                if of_name.count() == 0 {
                    response.metadata.response_code = ResponseCode::NXDomain;
                }
                let bytes = response.to_vec().unwrap();
                socket.send_to(&bytes, from).await.unwrap();
            }
        });
        Self {
            addr,
            records,
            _server: AbortOnDropHandle::new(server),
        }
    }

    /// `host` is found at `port` of `node`, which is this machine.
    pub fn add(&self, host: &str, node: &str, port: u16) {
        let name = |text: String| Name::from_ascii(text).unwrap();
        let node = name(format!("{node}."));
        let srv = SRV::new(1, 1, port, node.clone());
        let service = name(format!("_sips._tcp.{host}."));
        let mut records = self.records.lock().unwrap();
        records.push(Record::from_rdata(service, 60, RData::SRV(srv)));
        let here = A(Ipv4Addr::LOCALHOST);
        records.push(Record::from_rdata(node, 60, RData::A(here)));
    }
}
