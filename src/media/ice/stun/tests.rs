use super::*;

/// RFC 5769 section 2.1: a request, its password in `PASSWORD`.
const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74\
    002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5\
    b2d3f249c1b571a280280004e57a3bcf";
/// Section 2.2: its answer over IPv4.
const ANSWER_V4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
    002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
/// Section 2.3: over IPv6.
const ANSWER_V6: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
    002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed41\
    80280004c8fb0b4c";
const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn the_request_of_rfc_5769_is_read() {
    let datagram = bytes(REQUEST);
    let message = Message::read(&datagram).unwrap();
    assert_eq!(message.class, Class::Request);
    assert_eq!(message.username, Some(&b"evtj:h6vY"[..]));
    assert_eq!(message.receiver(), Some(&b"evtj"[..]));
    assert_eq!(message.priority, Some(0x6E00_01FF));
    assert_eq!(message.role, Some(Role::Controlled(0x932F_F9B1_5126_3B36)));
    assert!(message.is_signed_with(&key(PASSWORD)));
    assert!(!message.is_signed_with(&key("VOkJxbRl1RmTxUk/WvJxBT")));
}

#[test]
fn the_answers_of_rfc_5769_are_read() {
    for (hex, address) in [
        (ANSWER_V4, "192.0.2.1:32853"),
        (ANSWER_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
    ] {
        let datagram = bytes(hex);
        let message = Message::read(&datagram).unwrap();
        assert_eq!(message.class, Class::Success);
        assert_eq!(message.mapped, Some(address.parse().unwrap()));
        assert!(message.is_signed_with(&key(PASSWORD)));
    }
}

#[test]
fn what_is_written_is_read() {
    let transaction = [7; 12];
    for address in ["192.0.2.9:5000", "[2001:db8::5]:65535"] {
        let mut buffer = [0; MAX_LEN];
        let mut writer = Writer::new(&mut buffer, Class::Request, &transaction);
        let (ours, theirs) = ("a".repeat(256), "b".repeat(256));
        writer.username(&theirs, &ours);
        writer.priority(77);
        writer.use_candidate();
        writer.role(Role::Controlling(5));
        writer.mapped(address.parse().unwrap(), &transaction);
        let len = writer.finish(&key("secret")).unwrap();
        let message = Message::read(&buffer[..len]).unwrap();
        assert_eq!(message.receiver(), Some(theirs.as_bytes()));
        assert_eq!(message.mapped, Some(address.parse().unwrap()));
        assert_eq!((message.priority, message.use_candidate), (Some(77), true));
        assert_eq!(message.role, Some(Role::Controlling(5)));
        assert_eq!(message.unknown, None);
        assert!(message.is_signed_with(&key("secret")));
    }
}

#[test]
fn a_changed_byte_is_found() {
    let datagram = bytes(REQUEST);
    for at in 0..datagram.len() {
        let mut changed = datagram.clone();
        changed[at] ^= 0x10;
        // The fingerprint finds it; where that itself is gone, what is signed has not changed.
        match Message::read(&changed) {
            Err(_) => {}
            Ok(message) => {
                let signed = message.is_signed_with(&key(PASSWORD));
                assert_eq!(signed, at >= datagram.len() - FINGERPRINT_LEN, "byte {at}");
            }
        }
    }
}

#[test]
fn a_message_of_another_method_is_no_check() {
    let mut datagram = bytes(REQUEST);
    datagram[1] = 3;
    assert_eq!(Message::read(&datagram), Err(StunError::Method));
}

#[test]
fn what_must_be_understood_and_is_not_is_told() {
    let mut buffer = [0; MAX_LEN];
    let mut writer = Writer::new(&mut buffer, Class::Request, &[1; 12]);
    writer.attribute(0x7FF0, &[b"?"]);
    writer.attribute(0x8FF0, &[b"!"]);
    let len = writer.finish(&key("x")).unwrap();
    assert_eq!(Message::read(&buffer[..len]).unwrap().unknown, Some(0x7FF0));
}

#[test]
fn a_message_without_room_is_not_written() {
    let mut buffer = [0; 40];
    let mut writer = Writer::new(&mut buffer, Class::Request, &[1; 12]);
    writer.username("abcd", "efgh");
    assert_eq!(writer.finish(&key("x")), None);
}

proptest::proptest! {
    #[test]
    fn no_datagram_panics(mut datagram in proptest::collection::vec(proptest::num::u8::ANY, 0..128)) {
        Message::read(&datagram).ok();
        // With a header that is right, so that the attributes are looked at.
        if let Some(rest) = datagram.len().checked_sub(20) {
            datagram.truncate(20 + rest / 4 * 4);
            datagram[..2].copy_from_slice(&[0, 1]);
            datagram[2..4].copy_from_slice(&((rest / 4 * 4) as u16).to_be_bytes());
            datagram[4..8].copy_from_slice(&MAGIC);
            if let Ok(message) = Message::read(&datagram) {
                message.is_signed_with(&key("x"));
            }
        }
    }
}
