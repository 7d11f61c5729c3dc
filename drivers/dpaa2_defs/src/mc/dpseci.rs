//! Commands of DPSECI objects: queues of the crypto engine.
//!
//! Source: MC API 10.40, include/dplib/fsl_dpseci_cmd.h; DPDK, drivers/crypto/dpaa2_sec/mc/fsl_dpseci_cmd.h. Enable, disable,
//! reset and irq: [`super::common`].

use zerocopy::little_endian::{U16, U32, U64};

use super::common::Created;
use super::dpni::{OrderRestoration, OrderRestorationRecord};

object_commands!(DPSECI, open 0x809, destroy 0x989, version 0xa09);

layout! {
    /// Creates an object. With the token of its container.
    pub struct Create: 32 {
        /// Priorities of transmit queues 0 to 7, 1 to 8 each.
        priorities: [u8; 8] => 0,
        /// Number of queues to the engine, at most 16.
        tx_queues: u8 => 8,
        /// Number of queues from the engine, at most 16.
        rx_queues: u8 => 9,
        reserved10: [u8; 6] => 10,
        /// Options.
        options: U32 => 16,
        reserved20: [u8; 4] => 20,
        /// Priorities of transmit queues 8 to 15.
        priorities_high: [u8; 8] => 24,
    }
}
command!(Create, "create", 0x909, v 3, Created);

layout! {
    /// Asks what the object is.
    pub struct GetAttributes: 0 {}
}
command!(GetAttributes, "get attributes", 0x004, v 1, Attributes);

layout! {
    /// What the object is.
    pub struct Attributes: 20 {
        /// Number of the object.
        id: U32 => 0,
        reserved4: [u8; 4] => 4,
        /// Number of queues to the engine.
        tx_queues: u8 => 8,
        /// Number of queues from the engine.
        rx_queues: u8 => 9,
        reserved10: [u8; 6] => 10,
        /// Options of its creation.
        options: U32 => 16,
    }
}

layout! {
    /// Says what to do when a queue of the engine is congested. Also what [`GetCongestionNotification`] answers.
    pub struct SetCongestionNotification: 32 {
        /// Number of the destination.
        destination_id: U32 => 0,
        /// See [`super::dpni::congestion_mode`].
        mode: U16 => 4,
        /// Priority at the destination.
        destination_priority: u8 => 6,
        /// A [`super::dpni::Destination`] in bits 3:0, a [`super::dpni::Units`] in bits 5:4.
        type_and_units: u8 => 7,
        /// Where the message goes, an IOVA.
        message_iova: U64 => 8,
        /// The user's own value, in the message.
        context: U64 => 16,
        /// Begins above this.
        entry: U32 => 24,
        /// Ends below this.
        exit: U32 => 28,
    }
}
command!(SetCongestionNotification, "set congestion notification", 0x170, v 1, ());

layout! {
    /// Asks what is done when a queue of the engine is congested.
    pub struct GetCongestionNotification: 0 {}
}
command!(GetCongestionNotification, "get congestion notification", 0x171, v 1, SetCongestionNotification);

layout! {
    /// Asks how full a queue from the engine is.
    pub struct GetRxQueueStatus: 4 {
        /// Which.
        queue: U32 => 0,
    }
}
command!(GetRxQueueStatus, "get rx queue status", 0x172, v 1, QueueStatus);

layout! {
    /// Asks how full a queue to the engine is.
    pub struct GetTxQueueStatus: 4 {
        /// Which.
        queue: U32 => 0,
    }
}
command!(GetTxQueueStatus, "get tx queue status", 0x173, v 1, QueueStatus);

layout! {
    /// How full a queue is.
    pub struct QueueStatus: 16 {
        /// Number of the frame queue.
        fqid: U32 => 0,
        /// Of the frame queue.
        schedule_state: U16 => 4,
        /// 1 force-eligible, 2 off, 4 retiring, 8 overflow.
        flags: U16 => 6,
        /// Frames in it.
        frames: U32 => 8,
        /// Bytes in it.
        bytes: U32 => 12,
    }
}

layout! {
    /// Says where what the engine answers goes.
    pub struct SetRxQueue: 21 {
        /// Number of the destination.
        destination_id: U32 => 0,
        /// Priority there.
        destination_priority: u8 => 4,
        /// Which queue, 0xff for all.
        queue: u8 => 5,
        /// A [`super::dpni::Destination`] in bits 3:0.
        destination_type: u8 => 6,
        reserved7: u8 => 7,
        /// The user's own value, with each frame.
        user_context: U64 => 8,
        /// See [`super::dpci::queue_option`]; here 4 is: order preservation counts.
        options: U32 => 16,
        /// Bit 0: answers keep the order of requests.
        order_preservation: u8 => 20,
    }
}
command!(SetRxQueue, "set rx queue", 0x194, v 1, ());

layout! {
    /// Asks for a queue from the engine.
    pub struct GetRxQueue: 6 {
        reserved0: [u8; 5] => 0,
        /// Which.
        queue: u8 => 5,
    }
}
command!(GetRxQueue, "get rx queue", 0x196, v 1, RxQueue);

layout! {
    /// A queue from the engine.
    pub struct RxQueue: 21 {
        /// Number of the destination.
        destination_id: U32 => 0,
        /// Priority there.
        destination_priority: u8 => 4,
        reserved5: u8 => 5,
        /// A [`super::dpni::Destination`] in bits 3:0.
        destination_type: u8 => 6,
        reserved7: u8 => 7,
        /// The user's own value.
        user_context: U64 => 8,
        /// Number of the frame queue.
        fqid: U32 => 16,
        /// Bit 0.
        order_preservation: u8 => 20,
    }
}

layout! {
    /// Asks for a queue to the engine.
    pub struct GetTxQueue: 6 {
        reserved0: [u8; 5] => 0,
        /// Which.
        queue: u8 => 5,
    }
}
command!(GetTxQueue, "get tx queue", 0x197, v 1, TxQueue);

layout! {
    /// A queue to the engine.
    pub struct TxQueue: 9 {
        reserved0: [u8; 4] => 0,
        /// Number of the frame queue.
        fqid: U32 => 4,
        /// Its priority in the engine.
        priority: u8 => 8,
    }
}

layout! {
    /// Asks what the engine can do.
    pub struct GetEngineAttributes: 0 {}
}
command!(GetEngineAttributes, "get SEC attributes", 0x198, v 2, EngineAttributes);

layout! {
    /// What the engine can do: numbers of accelerators of each kind.
    pub struct EngineAttributes: 26 {
        /// Number of the block.
        ip_id: U16 => 0,
        /// Its revision.
        major: u8 => 2,
        /// Its revision.
        minor: u8 => 3,
        /// Its generation.
        era: u8 => 4,
        reserved5: [u8; 3] => 5,
        /// Descriptor controllers.
        decos: u8 => 8,
        /// ZUC, authentication.
        zuc_authentication: u8 => 9,
        /// ZUC, encryption.
        zuc_encryption: u8 => 10,
        reserved11: u8 => 11,
        /// SNOW f8.
        snow_f8: u8 => 12,
        /// SNOW f9.
        snow_f9: u8 => 13,
        /// CRC.
        crc: u8 => 14,
        reserved15: u8 => 15,
        /// Public key.
        public_key: u8 => 16,
        /// Kasumi.
        kasumi: u8 => 17,
        /// Random numbers.
        random: u8 => 18,
        reserved19: u8 => 19,
        /// Message digests.
        digest: u8 => 20,
        /// ARC4.
        arc4: u8 => 21,
        /// DES.
        des: u8 => 22,
        /// AES.
        aes: u8 => 23,
        /// ChaCha20.
        chacha: u8 => 24,
        /// Poly1305.
        poly: u8 => 25,
    }
}

layout! {
    /// Asks for the engine's counters, which all its users share.
    pub struct GetEngineCounters: 0 {}
}
command!(GetEngineCounters, "get SEC counters", 0x199, v 1, EngineCounters);

layout! {
    /// The engine's counters.
    pub struct EngineCounters: 56 {
        /// Requests taken from queues.
        dequeued_requests: U64 => 0,
        /// Requests that encrypt.
        encrypt_requests: U64 => 8,
        /// Requests that decrypt.
        decrypt_requests: U64 => 16,
        /// Bytes encrypted.
        encrypted_bytes: U64 => 24,
        /// Bytes protected.
        protected_bytes: U64 => 32,
        /// Bytes decrypted.
        decrypted_bytes: U64 => 40,
        /// Bytes validated.
        validated_bytes: U64 => 48,
    }
}

layout! {
    /// Creates, assigns or ends an order restoration record.
    pub struct SetOrderRestoration: 16 {
        reserved0: [u8; 2] => 0,
        /// Which queue.
        index: u8 => 2,
        /// Bits 1 create, 2 retire, 4 assign.
        options: u8 => 3,
        reserved4: [u8; 7] => 4,
        /// How it restores.
        record: OrderRestoration => 11,
    }
}
command!(SetOrderRestoration, "set order-restoration record", 0x19a, v 1, ());

layout! {
    /// Asks for an order restoration record.
    pub struct GetOrderRestoration: 3 {
        reserved0: [u8; 2] => 0,
        /// Which queue.
        index: u8 => 2,
    }
}
command!(GetOrderRestoration, "get order-restoration record", 0x19b, v 1, OrderRestorationRecord);
