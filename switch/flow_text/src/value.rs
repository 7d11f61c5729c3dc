//! Values of fields: reading and writing.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ParseError;
use crate::field::{FRAGS, FieldDef, Form, TCP_FLAGS};
use crate::port::{LOCAL, MAX_PORT, NO_PORT, PORT_CONTROLLER, Ports, RESERVED};
use crate::scan::Word;

/// A number as C writes it: decimal, `0x` hexadecimal, leading 0 octal.
pub(crate) fn number(word: Word<'_>, most: u128) -> Result<u128, ParseError> {
    let text = word.text;
    let (digits, radix) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    let allowed = || if most > 0xffff { format!("0 to {most:#x}") } else { format!("0 to {most}") };
    // from_str_radix takes a sign; a field doesn't.
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(word.error_allowed("not a number", allowed()));
    }
    match u128::from_str_radix(digits, radix) {
        Ok(value) if value <= most => Ok(value),
        Ok(_) => Err(word.error_allowed("number too large", allowed())),
        Err(e) if *e.kind() == std::num::IntErrorKind::PosOverflow => {
            Err(word.error_allowed("number too large", allowed()))
        }
        Err(_) => Err(word.error_allowed("not a number", allowed())),
    }
}

/// A port by number, reserved name or name; reserved numbers are understood as their names.
pub(crate) fn port(word: Word<'_>, ports: &dyn Ports) -> Result<u16, ParseError> {
    let word = word.trim();
    if word.text.starts_with(|c: char| c.is_ascii_digit())
        && word.text.bytes().all(|b| b.is_ascii_alphanumeric())
    {
        // A port may be called "0eth" all the same.
        if let Some(number) = ports.number(word.text) {
            return Ok(number);
        }
        let value = number(word, 0xffff)? as u16;
        if value > MAX_PORT && !RESERVED.iter().any(|&(reserved, _)| reserved == value) {
            return Err(word.error_allowed("not a port number", port_words(ports)));
        }
        return Ok(value);
    }
    let reserved =
        RESERVED.iter().find(|(_, names)| names.iter().any(|name| name.eq_ignore_ascii_case(word.text)));
    if let Some(&(number, _)) = reserved {
        return Ok(number);
    }
    ports.number(word.unquoted().text).ok_or_else(|| word.error_allowed("no such port", port_words(ports)))
}

pub(crate) fn port_words(ports: &dyn Ports) -> String {
    let mut words = format!("a number up to {MAX_PORT}, LOCAL");
    for name in ports.names() {
        words.push_str(", ");
        words.push_str(name);
    }
    words
}

fn mac(word: Word<'_>) -> Result<u128, ParseError> {
    let mut value = 0u128;
    let mut groups = 0;
    for group in word.text.split(':') {
        let fine = (1..=2).contains(&group.len()) && group.bytes().all(|b| b.is_ascii_hexdigit());
        groups += 1;
        if !fine || groups > 6 {
            groups = 0;
            break;
        }
        value = value << 8 | u128::from_str_radix(group, 16).unwrap_or(0);
    }
    if groups == 6 {
        Ok(value)
    } else {
        Err(word.error_allowed("not an Ethernet address", "xx:xx:xx:xx:xx:xx"))
    }
}

fn ipv4(word: Word<'_>) -> Result<u128, ParseError> {
    word.text
        .parse::<Ipv4Addr>()
        .map(|a| a.to_bits().into())
        .map_err(|_| word.error_allowed("not an IPv4 address", "a.b.c.d, with /prefix or /mask"))
}

fn ipv6(word: Word<'_>) -> Result<u128, ParseError> {
    word.text
        .parse::<Ipv6Addr>()
        .map(|a| a.to_bits())
        .map_err(|_| word.error_allowed("not an IPv6 address", "an address as in ::1, with /prefix or /mask"))
}

/// The mask after the slash of an address: a prefix length or an address.
fn address_mask(
    word: Word<'_>,
    bits: u32,
    address: fn(Word<'_>) -> Result<u128, ParseError>,
) -> Result<u128, ParseError> {
    if word.text.contains([':', '.']) {
        return address(word);
    }
    let length = number(word, bits.into())? as u32;
    let full = if bits == 128 { u128::MAX } else { (1 << bits) - 1 };
    Ok(if length == 0 { 0 } else { full << (bits - length) & full })
}

fn frag(word: Word<'_>) -> Result<(u128, u128), ParseError> {
    match FRAGS.iter().find(|(name, ..)| *name == word.text) {
        Some(&(_, value, mask)) => Ok((value.into(), mask.into())),
        None => Err(word.error_allowed("not a kind of fragment", "no, yes, first, later, not_later")),
    }
}

fn tcp_flag(word: Word<'_>) -> Result<u128, ParseError> {
    match TCP_FLAGS.iter().position(|name| *name == word.text) {
        Some(bit) => Ok(1 << bit),
        None => Err(word.error_allowed("not a TCP flag", TCP_FLAGS.join(", "))),
    }
}

/// `syn|ack` (exactly these), `+syn-ack` (set, clear), or numbers.
fn tcp_flags(word: Word<'_>, full: u128) -> Result<(u128, u128), ParseError> {
    let text = word.text;
    if text.starts_with(['+', '-']) {
        let (mut value, mut mask, mut at) = (0, 0, 0);
        while at < text.len() {
            let rest = word.from(at + 1);
            let end = rest.text.find(['+', '-']).unwrap_or(rest.text.len());
            let flag = tcp_flag(rest.to(end))?;
            if mask & flag != 0 {
                return Err(rest.to(end).error("named twice"));
            }
            mask |= flag;
            if text.as_bytes()[at] == b'+' {
                value |= flag;
            }
            at += 1 + end;
        }
        return Ok((value, mask));
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return masked(word, full, true, |w| number(w, full));
    }
    let (mut value, mut rest) = (0, word);
    loop {
        let (flag, more) = match rest.split_once("|") {
            Some((flag, more)) => (flag, Some(more)),
            None => (rest, None),
        };
        value |= tcp_flag(flag)?;
        match more {
            Some(more) => rest = more,
            None => return Ok((value, full)),
        }
    }
}

fn masked(
    word: Word<'_>,
    full: u128,
    maskable: bool,
    read: impl Fn(Word<'_>) -> Result<u128, ParseError>,
) -> Result<(u128, u128), ParseError> {
    match word.split_once("/") {
        None => Ok((read(word)?, full)),
        Some((_, mask)) if !maskable => Err(mask.error("this field can't be masked")),
        Some((value, mask)) => {
            let mask = read(mask)?;
            Ok((read(value)? & mask, mask))
        }
    }
}

/// The value and mask of a field, from its lowest bit.
pub(crate) fn field(
    word: Word<'_>,
    def: &FieldDef,
    maskable: bool,
    ports: &dyn Ports,
) -> Result<(u128, u128), ParseError> {
    let full = def.full();
    let address = |read: fn(Word<'_>) -> Result<u128, ParseError>| match word.split_once("/") {
        None => Ok((read(word)?, full)),
        Some((value, mask)) => {
            let mask = address_mask(mask, def.bits, read)?;
            Ok((read(value)? & mask, mask))
        }
    };
    match def.form {
        Form::Decimal | Form::Hex => masked(word, full, maskable, |w| number(w, full)),
        Form::Mac => masked(word, full, maskable, mac),
        Form::Ipv4 => address(ipv4),
        Form::Ipv6 => address(ipv6),
        Form::Frag => frag(word),
        Form::Flags => tcp_flags(word, full),
        Form::Port => match port(word, ports)? {
            number if number <= MAX_PORT || [LOCAL, PORT_CONTROLLER, NO_PORT].contains(&number) => {
                Ok((number.into(), full))
            }
            _ => Err(word.error_allowed("no frame comes in there", port_words(ports))),
        },
    }
}

pub(crate) fn write_mac(f: &mut fmt::Formatter<'_>, value: u128) -> fmt::Result {
    let b = (value as u64).to_be_bytes();
    write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[2], b[3], b[4], b[5], b[6], b[7])
}

/// Writes a port: its name when that can't be taken for something else, `LOCAL` and such, or the number.
pub(crate) fn write_port(f: &mut fmt::Formatter<'_>, number: u16, ports: &dyn Ports) -> fmt::Result {
    if let Some((_, names)) = RESERVED.iter().find(|&&(reserved, _)| reserved == number) {
        return f.write_str(names[0]);
    }
    let is_word = |name: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(plain)
            && !RESERVED.iter().any(|(_, names)| names.iter().any(|n| n.eq_ignore_ascii_case(name)))
    };
    match ports.name(number).filter(is_word) {
        Some(name) => f.write_str(name),
        None => write!(f, "{number}"),
    }
}

fn write_address_mask(f: &mut fmt::Formatter<'_>, bits: u32, mask: u128, v6: bool) -> fmt::Result {
    let ones = mask.count_ones();
    let prefix = if ones == 0 { 0 } else { mask.wrapping_shl(128 - bits).leading_ones() };
    if ones == bits {
        Ok(())
    } else if prefix == ones {
        write!(f, "/{ones}")
    } else if v6 {
        write!(f, "/{}", Ipv6Addr::from_bits(mask))
    } else {
        write!(f, "/{}", Ipv4Addr::from_bits(mask as u32))
    }
}

/// Writes a field's value and mask in the field's form.
pub(crate) fn write_field(
    f: &mut fmt::Formatter<'_>,
    def: &FieldDef,
    value: u128,
    mask: u128,
    ports: &dyn Ports,
) -> fmt::Result {
    let full = mask == def.full();
    match def.form {
        Form::Port if full => write_port(f, value as u16, ports),
        Form::Decimal if full => write!(f, "{value}"),
        Form::Decimal | Form::Hex | Form::Port => {
            write!(f, "{value:#x}")?;
            if full { Ok(()) } else { write!(f, "/{mask:#x}") }
        }
        Form::Mac => {
            write_mac(f, value)?;
            if full {
                return Ok(());
            }
            f.write_str("/")?;
            write_mac(f, mask)
        }
        Form::Ipv4 => {
            write!(f, "{}", Ipv4Addr::from_bits(value as u32))?;
            write_address_mask(f, 32, mask, false)
        }
        Form::Ipv6 => {
            write!(f, "{}", Ipv6Addr::from_bits(value))?;
            write_address_mask(f, 128, mask, true)
        }
        Form::Frag => {
            match FRAGS.iter().find(|&&(_, v, m)| u128::from(v) == value && u128::from(m) == mask) {
                Some((name, ..)) => f.write_str(name),
                None => write!(f, "{value:#x}/{mask:#x}"),
            }
        }
        Form::Flags => write_tcp_flags(f, value, mask, full),
    }
}

fn write_tcp_flags(f: &mut fmt::Formatter<'_>, value: u128, mask: u128, full: bool) -> fmt::Result {
    if full && value == 0 {
        return f.write_str("0");
    }
    let mut first = true;
    for (bit, name) in TCP_FLAGS.iter().enumerate() {
        let (set, looked_at) = (value >> bit & 1 == 1, mask >> bit & 1 == 1);
        if full && set {
            f.write_str(if first { "" } else { "|" })?;
            f.write_str(name)?;
            first = false;
        } else if !full && looked_at {
            write!(f, "{}{name}", if set { '+' } else { '-' })?;
        }
    }
    Ok(())
}
