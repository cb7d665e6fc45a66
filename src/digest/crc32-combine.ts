/** Generator polynomial of CRC-32 (IEEE 802.3) in reflected bit order, as in zlib. */
const POLYNOMIAL = 0xedb88320;

/**
 * Returns the CRC-32 of two concatenated contents, given the CRC-32 of each. Multiplies `first` by
 * x^(8 × `length`) modulo the generator polynomial, like `crc32_combine` of zlib.
 *
 * @param first CRC-32 of the first content
 * @param second CRC-32 of the second content
 * @param length length of the second content in bytes, at most 2^53 - 1
 */
export function crc32Combine(first: number, second: number, length: number): number {
  let factor = 0x80000000; // x^0
  let square = 0x00800000; // x^8, the shift by one byte
  for (let rest = length; rest > 0; rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) factor = multiply(factor, square);
    square = multiply(square, square);
  }
  return (multiply(factor, first) ^ second) >>> 0;
}

/**
 * Multiplies two polynomials over GF(2), modulo the generator polynomial of CRC-32. Bits are
 * reflected: the highest bit is the coefficient of x^0.
 */
function multiply(a: number, b: number): number {
  let product = 0;
  let shifted = b;
  for (let bit = 0x80000000; bit !== 0; bit >>>= 1) {
    if ((a & bit) !== 0) product ^= shifted;
    shifted = (shifted & 1) === 1 ? (shifted >>> 1) ^ POLYNOMIAL : shifted >>> 1;
  }
  return product >>> 0;
}
