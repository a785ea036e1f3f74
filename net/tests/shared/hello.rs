//! The two sides of a connection that comes about: node 1 calls node 2.

use bowline_net::{Class, Hello, HelloKind, NodeRecord, Versions};
use bowline_raft::NodeId;

/// Node 1's hello to core 6 of node 2.
pub(crate) fn dialer() -> Hello {
    Hello {
        kind: HelloKind::Hello,
        class: Class::Lane,
        versions: Versions::OURS,
        features: 0b1011,
        required: 0b0010,
        cluster: 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210,
        from: NodeId(1),
        to: NodeId(2),
        store: (0xa1 << 120) | 7,
        boot: 31,
        epoch: 5,
        nonce: 0x1111_2222_3333_4444,
        echo: 0,
        from_core: 3,
        want_core: 6,
        cores: 4,
        machine: 0,
        frame_max: 1_088 << 10,
        window: 8 << 20,
        table_version: 17,
        claimed: 0,
        known: 0,
        record: NodeRecord {
            node: NodeId(1),
            address: "10.0.0.1:7500".to_owned(),
            client_address: "app-1.example:443".to_owned(),
            cores: 4,
            streams: 8,
        },
    }
}

/// Node 2's welcome to it; it has two cores.
pub(crate) fn acceptor() -> Hello {
    Hello {
        kind: HelloKind::Welcome,
        features: 0b0110,
        from: NodeId(2),
        to: NodeId(1),
        store: (0xb2 << 120) | 9,
        boot: 8,
        epoch: 0,
        nonce: 0x5555_6666_7777_8888,
        echo: dialer().nonce,
        from_core: 0,
        want_core: 3,
        cores: 2,
        window: 2_176 << 10,
        record: NodeRecord {
            node: NodeId(2),
            address: "10.0.0.2:7500".to_owned(),
            client_address: String::new(),
            cores: 2,
            streams: 4,
        },
        ..dialer()
    }
}
