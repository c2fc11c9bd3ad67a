use super::*;

const RTP: &str = "8040f17b8041f8d35501a0b247616c6c696120657374206f6d6e69732064697669736120696e\
                   207061727465732074726573";
const REPORT: &str = "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61deadbeefde\
                      adbeefdeadbeefdeadbeefdeadbeef";
const INDEX_OF_REPORT: u32 = 0x5d4;

/// The session key and salt of RFC 7714 sections 16 and 17.
fn gcm(algorithm: &'static Algorithm) -> Cipher {
    let key: Vec<u8> = (0..algorithm.key_len()).map(|n| n as u8).collect();
    Cipher::gcm(algorithm, &key, *b"Quid pro quo")
}

fn hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

#[track_caller]
fn assert_rtp(cipher: &Cipher, plain: &str, index: u64, protected: &str) {
    let (plain, protected) = (hex(plain), hex(protected));
    let ssrc = u32::from_be_bytes(plain[8..12].try_into().unwrap());
    let mut buffer = plain.clone();
    buffer.resize(plain.len() + GCM_TAG, 0);
    let len = cipher
        .seal_rtp(&mut buffer, 12, plain.len(), ssrc, index)
        .unwrap();
    assert_eq!(buffer[..len], protected);
    let len = cipher
        .open_rtp(&mut buffer[..len], 12, ssrc, index)
        .unwrap();
    assert_eq!(buffer[..len], plain);
}

#[track_caller]
fn assert_report_opens(cipher: &Cipher, protected: &str, word: u32, plain: &str) {
    let mut packet = hex(protected);
    let ssrc = u32::from_be_bytes(packet[4..8].try_into().unwrap());
    assert_eq!(cipher.report_index(&packet), Ok(word));
    let len = cipher.open_rtcp(&mut packet, ssrc, word).unwrap();
    assert_eq!(packet[..len], hex(plain));
}

#[track_caller]
fn assert_report_seals(cipher: &Cipher, plain: &str, index: u32, protected: &str) {
    let mut buffer = hex(plain);
    let len = buffer.len();
    let ssrc = u32::from_be_bytes(buffer[4..8].try_into().unwrap());
    buffer.resize(len + GCM_TAG + INDEX, 0);
    let len = cipher.seal_rtcp(&mut buffer, len, ssrc, index).unwrap();
    assert_eq!(buffer[..len], hex(protected));
}

/// RFC 7714 sections 16.1 and 16.2.
#[test]
fn aes_gcm_protects_the_packets_of_the_standard() {
    assert_rtp(
        &gcm(&AES_128_GCM),
        RTP,
        0xf17b,
        "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d1\
         9b36de3adf8833899d7f27beb16a9152cf765ee4390cce",
    );
    assert_rtp(
        &gcm(&AES_256_GCM),
        RTP,
        0xf17b,
        "8040f17b8041f8d35501a0b232b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae\
         0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13",
    );
}

/// RFC 7714 sections 17.1 to 17.3.
#[test]
fn aes_gcm_protects_the_reports_of_the_standard() {
    let short = "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fd\
                 a4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4";
    let long = "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be\
                8415f658c61de0476f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4";
    let word = ENCRYPTED | INDEX_OF_REPORT;
    for (algorithm, protected) in [(&AES_128_GCM, short), (&AES_256_GCM, long)] {
        assert_report_seals(&gcm(algorithm), REPORT, INDEX_OF_REPORT, protected);
        assert_report_opens(&gcm(algorithm), protected, word, REPORT);
    }
    let tagged_only = [REPORT, "841dd9683dd78ec92ae58790125f62b3000005d4"].concat();
    assert_report_opens(&gcm(&AES_128_GCM), &tagged_only, INDEX_OF_REPORT, REPORT);
}

/// What libsrtp makes of the master key of RFC 3711 appendix B.3.
#[test]
fn counter_mode_protects_packets_as_libsrtp_does() {
    let master = hex("E1F97A0D3E018BE0D64FA32C06DE41390EC675AD498AFEEBB6960B3AABE6");
    let key = SrtpKey::new(SrtpSuite::AesCm128HmacSha1_80, &master).unwrap();
    assert_rtp(
        &Cipher::new(&key, Use::Rtp),
        "800f1234decafbadcafebabeabababababababababababababababab",
        0x1234,
        "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb",
    );
    let plain = "81c8000bcafebabeabababababababababababababababab";
    let protected = "81c8000bcafebabe7128035be487b9bdbef89041f977a5a880000001993e08cd54d6c1230798";
    let cipher = Cipher::new(&key, Use::Rtcp);
    assert_report_seals(&cipher, plain, 1, protected);
    assert_report_opens(&cipher, protected, ENCRYPTED | 1, plain);
}
