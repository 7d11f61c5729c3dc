//! Reads a faulting store: which bytes it stores, and how long the instruction is.
//!
//! Known are the forms compilers make of volatile stores and small inlined copies: moves of registers and immediates, and
//! SSE and 128- and 256-bit AVX stores.

/// Values an instruction can store.
pub trait Registers {
    /// General register by its number in the encoding (0 rax, 1 rcx, …, 15 r15).
    fn general(&self, number: u8) -> u64;
    /// Vector register, as far as the signal frame has it.
    fn vector(&self, number: u8) -> [u8; 32];
}

/// A decoded store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    bytes: [u8; 32],
    /// Bytes stored.
    pub len: usize,
    /// Bytes of the instruction.
    pub instruction_len: usize,
}

impl Store {
    /// What is stored.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Longest instruction there is.
pub const INSTRUCTION_MAX: usize = 15;

struct Reader<'a> {
    code: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.code.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn immediate(&mut self, len: usize) -> Option<u64> {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(self.code.get(self.at..self.at + len)?);
        self.at += len;
        Some(u64::from_le_bytes(bytes))
    }

    /// Skips the operand that names the memory; gives the other one's number.
    fn memory_operand(&mut self) -> Option<u8> {
        let modrm = self.byte()?;
        let (mode, register, base) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
        if mode == 3 {
            return None;
        }
        let mut displacement = match mode {
            1 => 1,
            2 => 4,
            _ if base == 5 => 4,
            _ => 0,
        };
        if base == 4 {
            let sib = self.byte()?;
            if mode == 0 && sib & 7 == 5 {
                displacement = 4;
            }
        }
        self.at += displacement;
        Some(register)
    }
}

/// Decodes the store at the start of `code`; `None` if it isn't one of the known forms.
pub fn decode(code: &[u8], registers: &impl Registers) -> Option<Store> {
    let mut reader = Reader { code, at: 0 };
    let (mut operand16, mut repeat, mut rex) = (false, 0, 0);
    let opcode = loop {
        match reader.byte()? {
            0x66 => operand16 = true,
            prefix @ (0xf2 | 0xf3) => repeat = prefix,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => {}
            prefix @ 0x40..=0x4f => {
                rex = prefix;
                break reader.byte()?;
            }
            opcode => break opcode,
        }
    };
    let (wide, extend) = (rex & 8 != 0, (rex & 4) << 1);
    let general = |number: u8, len: usize| (registers.general(number).to_le_bytes(), len);
    let operand = if wide {
        8
    } else if operand16 {
        2
    } else {
        4
    };
    let (bytes, len): ([u8; 8], usize) = match opcode {
        0x88 => {
            let number = reader.memory_operand()? | extend;
            if rex == 0 && (4..8).contains(&number) {
                ([(registers.general(number - 4) >> 8) as u8, 0, 0, 0, 0, 0, 0, 0], 1)
            } else {
                general(number, 1)
            }
        }
        0x89 => general(reader.memory_operand()? | extend, operand),
        0xc6 => {
            reader.memory_operand()?;
            (reader.immediate(1)?.to_le_bytes(), 1)
        }
        0xc7 => {
            reader.memory_operand()?;
            let value = reader.immediate(operand.min(4))?;
            // A 64-bit store extends its 32-bit immediate's sign.
            let value = if wide { value as i32 as i64 as u64 } else { value };
            (value.to_le_bytes(), operand)
        }
        0x0f => {
            let opcode = reader.byte()?;
            if opcode == 0xc3 {
                general(reader.memory_operand()? | extend, operand)
            } else {
                let prefix = if repeat != 0 {
                    repeat
                } else if operand16 {
                    0x66
                } else {
                    0
                };
                let number = reader.memory_operand()? | extend;
                return vector_store(prefix, opcode, wide, 16, number, reader.at, registers);
            }
        }
        0xc5 => {
            let vex = reader.byte()?;
            let opcode = reader.byte()?;
            let number = reader.memory_operand()? | (!vex >> 7 & 1) << 3;
            let len = if vex & 4 != 0 { 32 } else { 16 };
            return vector_store(vex_prefix(vex), opcode, false, len, number, reader.at, registers);
        }
        0xc4 => {
            let (map, vex) = (reader.byte()?, reader.byte()?);
            if map & 0x1f != 1 {
                return None;
            }
            let opcode = reader.byte()?;
            let number = reader.memory_operand()? | (!map >> 7 & 1) << 3;
            let len = if vex & 4 != 0 { 32 } else { 16 };
            return vector_store(vex_prefix(vex), opcode, vex & 0x80 != 0, len, number, reader.at, registers);
        }
        _ => return None,
    };
    let mut all = [0; 32];
    all[..8].copy_from_slice(&bytes);
    Some(Store { bytes: all, len, instruction_len: reader.at })
}

fn vex_prefix(vex: u8) -> u8 {
    [0, 0x66, 0xf3, 0xf2][usize::from(vex & 3)]
}

fn vector_store(
    prefix: u8,
    opcode: u8,
    wide: bool,
    full: usize,
    number: u8,
    instruction_len: usize,
    registers: &impl Registers,
) -> Option<Store> {
    let (from, len) = match (prefix, opcode) {
        // Unaligned, aligned and non-temporal moves of a whole register.
        (0 | 0x66, 0x11 | 0x29 | 0x2b) | (0x66 | 0xf3, 0x7f) | (0x66, 0xe7) => (0, full),
        (0xf3, 0x11) => (0, 4),
        (0xf2, 0x11) | (0x66, 0xd6) | (0 | 0x66, 0x13) => (0, 8),
        (0 | 0x66, 0x17) => (8, 8),
        (0x66, 0x7e) => (0, if wide { 8 } else { 4 }),
        _ => return None,
    };
    let register = registers.vector(number);
    let mut bytes = [0; 32];
    bytes[..len].copy_from_slice(&register[from..from + len]);
    Some(Store { bytes, len, instruction_len })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Registers for Fixed {
        fn general(&self, number: u8) -> u64 {
            0x1111_1111_1111_1100 + u64::from(number) * 0x10
        }
        fn vector(&self, number: u8) -> [u8; 32] {
            std::array::from_fn(|i| number * 32 + i as u8)
        }
    }

    fn stored(code: &[u8]) -> (Vec<u8>, usize) {
        let store = decode(code, &Fixed).unwrap_or_else(|| panic!("{code:02x?}"));
        (store.bytes().to_vec(), store.instruction_len)
    }

    #[test]
    fn moves_of_registers() {
        // mov %ecx,0x800(%rax)
        assert_eq!(stored(&[0x89, 0x88, 0, 8, 0, 0]), (vec![0x10, 0x11, 0x11, 0x11], 6));
        // mov %r9,(%rdi)
        assert_eq!(stored(&[0x4c, 0x89, 0x0f]).0, 0x1111_1111_1111_1190u64.to_le_bytes());
        // mov %ax,0x8(%rsp,%rcx,2): with a SIB byte
        assert_eq!(stored(&[0x66, 0x89, 0x44, 0x4c, 8]), (vec![0, 0x11], 5));
        // mov %ah,(%rdx) and mov %sil,(%rdx)
        assert_eq!(stored(&[0x88, 0x22]).0, [0x11]);
        assert_eq!(stored(&[0x40, 0x88, 0x32]).0, [0x60]);
        // mov %eax,0x1234(%rip)
        assert_eq!(stored(&[0x89, 0x05, 0x34, 0x12, 0, 0]).1, 6);
    }

    #[test]
    fn moves_of_immediates() {
        // movl $0x100,0x900(%rax)
        assert_eq!(stored(&[0xc7, 0x80, 0, 9, 0, 0, 0, 1, 0, 0]), (vec![0, 1, 0, 0], 10));
        // movq $-1,(%rax)
        assert_eq!(stored(&[0x48, 0xc7, 0x00, 0xff, 0xff, 0xff, 0xff]).0, [0xff; 8]);
        // movb $7,1(%rax)
        assert_eq!(stored(&[0xc6, 0x40, 1, 7]), (vec![7], 4));
        // movw $0x1234,(%rax)
        assert_eq!(stored(&[0x66, 0xc7, 0x00, 0x34, 0x12]), (vec![0x34, 0x12], 5));
    }

    #[test]
    fn vector_stores() {
        let bytes = |number: u8, from: usize, len: usize| Fixed.vector(number)[from..from + len].to_vec();
        // movups %xmm1,0x10(%rdi)
        assert_eq!(stored(&[0x0f, 0x11, 0x4f, 0x10]), (bytes(1, 0, 16), 4));
        // movdqa %xmm2,(%rsi); movdqu %xmm3,(%rsi)
        assert_eq!(stored(&[0x66, 0x0f, 0x7f, 0x16]).0, bytes(2, 0, 16));
        assert_eq!(stored(&[0xf3, 0x0f, 0x7f, 0x1e]).0, bytes(3, 0, 16));
        // movq %xmm0,(%rdi); movhps %xmm0,8(%rdi)
        assert_eq!(stored(&[0x66, 0x0f, 0xd6, 0x07]).0, bytes(0, 0, 8));
        assert_eq!(stored(&[0x0f, 0x17, 0x47, 8]).0, bytes(0, 8, 8));
        // movd %xmm0,(%rdi); vmovdqu %ymm1,(%rdi)
        assert_eq!(stored(&[0x66, 0x0f, 0x7e, 0x07]).0, bytes(0, 0, 4));
        assert_eq!(stored(&[0xc5, 0xfe, 0x7f, 0x0f]), (bytes(1, 0, 32), 4));
    }

    #[test]
    fn loads_and_other_instructions_are_not_stores() {
        for code in [&[0x8b, 0x00][..], &[0x90], &[0x89, 0xc0], &[0x0f, 0x10, 0x00], &[0x89]] {
            assert_eq!(decode(code, &Fixed), None, "{code:02x?}");
        }
    }
}
