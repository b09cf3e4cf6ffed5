//! The bytes of a kernel's argument structure, laid out as C does it.

use super::Address;
use crate::model::dropout::Dropout;

/// One member of a structure.
pub trait Argument {
    /// Appends the member, behind the gap that its alignment asks for.
    fn append(&self, bytes: &mut Vec<u8>);
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Argument for $type {
            fn append(&self, bytes: &mut Vec<u8>) {
                align(bytes, size_of::<Self>());
                bytes.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
number!(u32, u64, f32, f64);

impl Argument for Address {
    fn append(&self, bytes: &mut Vec<u8>) {
        self.0.append(bytes);
    }
}

impl<T: Argument, const N: usize> Argument for [T; N] {
    fn append(&self, bytes: &mut Vec<u8>) {
        self.iter().for_each(|member| member.append(bytes));
    }
}

/// `Dropout` of the kernels.
impl Argument for Dropout {
    fn append(&self, bytes: &mut Vec<u8>) {
        self.site.append(bytes);
        self.threshold.append(bytes);
        self.scale.append(bytes);
    }
}

/// Appends zeros up to a multiple of `alignment`.
pub fn align(bytes: &mut Vec<u8>, alignment: usize) {
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
}

/// The bytes of a structure with these members. All have a member of 8 bytes, whose multiple their size is.
macro_rules! arguments {
    ($($member:expr),+ $(,)?) => {{
        let mut bytes = vec![];
        $($crate::model::device::arguments::Argument::append(&$member, &mut bytes);)+
        $crate::model::device::arguments::align(&mut bytes, 8);
        bytes
    }};
}
pub(super) use arguments;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_lie_where_c_puts_them() {
        let check = |bytes: Vec<u8>, expected: &[u8]| assert_eq!(bytes, expected);
        check(arguments![1u32, Address(2)], &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        check(arguments![Address(2), 1u32], &[2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        check(arguments![[1u32, 2], 1.0f32], &[1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0x80, 0x3f, 0, 0, 0, 0]);
        let dropout = Dropout { site: 3, threshold: 4, scale: 1.0 };
        check(arguments![7u32, dropout], &{
            let mut bytes = [0; 24];
            (bytes[0], bytes[8], bytes[16], bytes[22], bytes[23]) = (7, 3, 4, 0x80, 0x3f);
            bytes
        });
    }
}
