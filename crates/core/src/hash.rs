//! Stable hashes: for ring and maglev tables, sticky splits, limiter keys.
//!
//! The value decides which member a caller sticks to, so it must be the same in every process, on every machine and in
//! every release: `std`'s hasher promises none of that. XXH64 is a fixed public algorithm (xxHash specification, 2012)
//! with published vectors, a few nanoseconds for a user id. It is not a defence against chosen collisions: tables that
//! callers can fill take a secret seed.

use std::net::IpAddr;

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

fn le64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

const fn round(acc: u64, lane: u64) -> u64 {
    acc.wrapping_add(lane.wrapping_mul(P2))
        .rotate_left(31)
        .wrapping_mul(P1)
}

/// XXH64 of `bytes` with `seed`.
pub fn hash64(bytes: &[u8], seed: u64) -> u64 {
    let (blocks, tail) = bytes.as_chunks::<32>();
    let mut hash = if blocks.is_empty() {
        seed.wrapping_add(P5)
    } else {
        let mut lanes = [
            seed.wrapping_add(P1).wrapping_add(P2),
            seed.wrapping_add(P2),
            seed,
            seed.wrapping_sub(P1),
        ];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
                *lane = round(*lane, u64::from_le_bytes(*word));
            }
        }
        let [a, b, c, d] = lanes;
        let joined = a
            .rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18));
        lanes.iter().fold(joined, |hash, lane| {
            (hash ^ round(0, *lane)).wrapping_mul(P1).wrapping_add(P4)
        })
    };
    hash = hash.wrapping_add(bytes.len() as u64);
    let (words, tail) = tail.as_chunks::<8>();
    for word in words {
        hash = (hash ^ round(0, u64::from_le_bytes(*word)))
            .rotate_left(27)
            .wrapping_mul(P1)
            .wrapping_add(P4);
    }
    let (halves, tail) = tail.as_chunks::<4>();
    for half in halves {
        hash = (hash ^ le64(half).wrapping_mul(P1))
            .rotate_left(23)
            .wrapping_mul(P2)
            .wrapping_add(P3);
    }
    for byte in tail {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P5))
            .rotate_left(11)
            .wrapping_mul(P1);
    }
    hash = (hash ^ hash >> 33).wrapping_mul(P2);
    hash = (hash ^ hash >> 29).wrapping_mul(P3);
    hash ^ hash >> 32
}

/// Hash of a source address, the port left out, so that a caller keeps its member over reconnects. An IPv4 address and
/// its IPv4-mapped IPv6 form are one caller.
pub fn hash_ip(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => hash64(&ip.octets(), 0),
        IpAddr::V6(ip) => hash64(&ip.octets(), 0),
    }
}

/// Spreads 64 bits over 64 bits, one to one (the finaliser of splitmix64).
#[inline]
pub const fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

/// Rendezvous (highest random weight) score of a choice for a key: the choice with the highest score wins, and taking
/// another choice away moves no key of the winner. For sticky splits: hash the key once, score each target by its
/// name's hash. Weighted by Schindelhauer and Schomaker's −w/ln(u). A weight of 0 never wins over a positive one.
pub fn rendezvous(key: u64, choice: u64, weight: u32) -> f64 {
    let u = ((mix(key ^ mix(choice)) >> 11) as f64 + 0.5) * (1.0 / (1u64 << 53) as f64);
    -f64::from(weight) / u.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_published_xxh64_vectors() {
        assert_eq!(hash64(b"", 0), 0xEF46_DB37_51D8_E999);
        assert_eq!(hash64(b"a", 0), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(hash64(b"abc", 0), 0x44BC_2CF5_AD77_0999);
        // 39 and 62 bytes: the four-lane loop and every tail length.
        assert_eq!(
            hash64(b"Nobody inspects the spammish repetition", 0),
            0xFBCE_A83C_8A37_8BF1
        );
        assert_eq!(
            hash64(
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
                0
            ),
            0xAAA4_6907_D304_7814
        );
    }

    #[test]
    fn seed_changes_the_value() {
        assert_ne!(hash64(b"user-1", 0), hash64(b"user-1", 1));
    }

    #[test]
    fn mapped_ipv4_is_the_same_caller() {
        assert_eq!(
            hash_ip("10.1.2.3".parse().unwrap()),
            hash_ip("::ffff:10.1.2.3".parse().unwrap())
        );
        assert_ne!(
            hash_ip("10.1.2.3".parse().unwrap()),
            hash_ip("10.1.2.4".parse().unwrap())
        );
    }

    #[test]
    fn rendezvous_follows_weights_and_moves_only_the_lost_keys() {
        let choices = [(1u64, 90u32), (2, 10), (3, 0)];
        let winner = |key: u64, choices: &[(u64, u32)]| {
            choices
                .iter()
                .max_by(|a, b| rendezvous(key, a.0, a.1).total_cmp(&rendezvous(key, b.0, b.1)))
                .unwrap()
                .0
        };
        let wins = (0..20_000)
            .filter(|k| winner(mix(*k), &choices) == 1)
            .count();
        assert!((17_800..18_200).contains(&wins), "{wins}");
        for key in (0..2_000).map(mix) {
            assert_ne!(winner(key, &choices), 3);
            if winner(key, &choices) == 1 {
                assert_eq!(winner(key, &[choices[0], choices[2]]), 1);
            }
        }
    }
}
