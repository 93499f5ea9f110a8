// UTF-8 as SentencePiece reads and writes it: what is malformed costs one byte each.

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** A string as UTF-8; half a surrogate pair becomes U+FFFD. */
export const toBytes = (text) => encoder.encode(text);

/** Well-formed UTF-8 as a string, a byte order mark included. */
export const fromBytes = (bytes) => decoder.decode(bytes);

/** The length in bytes of a character, by its first byte. */
function characterLength(first) {
  if (first < 0xc0) return 1;
  return first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

/** The characters of bytes that may be malformed: [{ text, end }], `end` the place behind it. */
export function characters(bytes) {
  const found = [];
  for (let start = 0; start < bytes.length; ) {
    let end = start + characterLength(bytes[start]);
    let text = "\ufffd";
    try {
      text = fromBytes(bytes.subarray(start, end));
    } catch {
      end = start + 1;
    }
    found.push({ text, end });
    start = end;
  }
  return found;
}
