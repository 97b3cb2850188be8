//! Copies of C strings that librdkafka owns.
#![expect(unsafe_code, reason = "librdkafka returns texts as pointers")]

use std::ffi::{CStr, c_char};

/// Copies a text of librdkafka. A null pointer is an empty text; bytes that are not UTF-8 are replaced.
///
/// # Safety
/// `text` is null, or points to a text that ends with a zero and does not change during the call.
pub(crate) unsafe fn copy(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: `text` is not null, and the rest is the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
