/* Read JSON in C: texts and their escapes, and vectors that grow. Included by each file that reads JSON. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__) && !defined(STREAMMIG_PLAIN)
#include <emmintrin.h>
#define JUDGE_VECTORS 1
#else
#define JUDGE_VECTORS 0
#endif

typedef const uint8_t *At; /* a place in the bytes; functions that return one return NULL for "not sure" */

/* ---- vectors ---- */

typedef struct {
  void *data;
  size_t count, room, size;
} Vector;

/* Make room for `wanted` more elements, and return the place of the first; NULL without memory. */
static void *grown(Vector *it, size_t wanted) {
  if (it->data == NULL || it->count + wanted > it->room) {
    size_t room = it->room * 2 + wanted + 64;
    void *data = realloc(it->data, room * it->size);
    if (data == NULL) return NULL;
    it->data = data;
    it->room = room;
  }
  void *at = (char *)it->data + it->count * it->size;
  it->count += wanted;
  return at;
}

/* ---- signs ---- */

enum { IS_DIGIT = 1, IS_HEX = 2, IS_ATOM = 4, IS_LETTER = 8 };
static uint8_t classes[256];

static void fill_classes(void) {
  for (int sign = 0; sign < 256; sign++) {
    int digit = sign >= '0' && sign <= '9', small = sign | 32, letter = sign < 128 && small >= 'a' && small <= 'z';
    int atom = sign > 32 && sign < 127 && !strchr("\"(),.:;<>@[\\]", sign);
    classes[sign] = (uint8_t)((digit ? IS_DIGIT | IS_HEX : 0) | (letter && small <= 'f' ? IS_HEX : 0) |
                              (atom ? IS_ATOM : 0) | (digit || letter ? IS_LETTER : 0));
  }
}

static int is(uint8_t sign, int class) { return classes[sign] & class; }

static At blanks(At at, At end) {
  while (at < end && *at <= ' ' && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')) at++;
  return at;
}

/* ---- texts ---- */

typedef struct { At begin, end; int escaped, high; } Text;

/* Return the code unit of four hexadecimal digits; -1 for anything else. */
static int hex4(At at, At end) {
  int unit = 0;
  if (end - at < 4) return -1;
  for (int i = 0; i < 4; i++) {
    if (!is(at[i], IS_HEX)) return -1;
    unit = unit * 16 + (is(at[i], IS_DIGIT) ? at[i] - '0' : (at[i] | 32) - 'a' + 10);
  }
  return unit;
}

/* Skip an escape: return the place after it. A surrogate needs its other half. */
static At escape(At at, At end) {
  if (end - at < 2) return NULL;
  if (at[1] != 'u') return at[1] != 0 && strchr("\"\\/bfnrt", at[1]) ? at + 2 : NULL;
  int unit = hex4(at + 2, end);
  if (unit < 0 || (unit >= 0xDC00 && unit <= 0xDFFF)) return NULL;
  at += 6;
  if (unit < 0xD800 || unit > 0xDBFF) return at;
  if (end - at < 6 || at[0] != '\\' || at[1] != 'u') return NULL;
  unit = hex4(at + 2, end);
  return unit >= 0xDC00 && unit <= 0xDFFF ? at + 6 : NULL;
}

static int follows(uint8_t sign) { return (sign & 0xC0) == 0x80; }

/* Skip a character of several bytes: valid UTF-8, no overlong form, no surrogate. */
static At character(At at, At end) {
  ptrdiff_t left = end - at;
  uint8_t first = at[0];
  if (first >= 0xC2 && first <= 0xDF && left >= 2 && follows(at[1])) return at + 2;
  if ((first & 0xF0) == 0xE0 && left >= 3 && follows(at[1]) && follows(at[2])) {
    return (first == 0xE0 && at[1] < 0xA0) || (first == 0xED && at[1] >= 0xA0) ? NULL : at + 3;
  }
  if (first >= 0xF0 && first <= 0xF4 && left >= 4 && follows(at[1]) && follows(at[2]) && follows(at[3])) {
    return (first == 0xF0 && at[1] < 0x90) || (first == 0xF4 && at[1] >= 0x90) ? NULL : at + 4;
  }
  return NULL;
}

/* Find the first byte that is not plain inside a text (a quote, a backslash, a control, not ASCII), or the end. */
static At plain(At at, At end) {
#if JUDGE_VECTORS
  for (; end - at >= 16; at += 16) {
    __m128i some = _mm_loadu_si128((const __m128i *)at);
    __m128i odd = _mm_or_si128(_mm_cmpeq_epi8(some, _mm_set1_epi8('"')), _mm_cmpeq_epi8(some, _mm_set1_epi8('\\')));
    odd = _mm_or_si128(odd, _mm_cmplt_epi8(some, _mm_set1_epi8(32))); /* signed, so bytes from 0x80 on count too */
    int mask = _mm_movemask_epi8(odd);
    if (mask) return at + __builtin_ctz((unsigned)mask);
  }
#endif
  while (at < end && *at >= 32 && *at < 128 && *at != '"' && *at != '\\') at++;
  return at;
}

/* Skip a text from its opening quote on. */
static At text(At at, At end, Text *it) {
  if (at >= end || *at != '"') return NULL;
  it->begin = ++at;
  it->escaped = it->high = 0;
  for (;;) {
    at = plain(at, end);
    if (at >= end || *at < 32) return NULL;
    if (*at == '"') break;
    if (*at == '\\') {
      it->escaped = 1;
      at = escape(at, end);
    } else {
      it->high = 1;
      at = character(at, end);
    }
    if (at == NULL) return NULL;
  }
  it->end = at;
  return at + 1;
}

static uint8_t *encoded(uint8_t *to, int point) {
  if (point < 0x80) {
    *to++ = (uint8_t)point;
  } else if (point < 0x800) {
    *to++ = (uint8_t)(0xC0 | point >> 6);
    *to++ = (uint8_t)(0x80 | (point & 63));
  } else if (point < 0x10000) {
    *to++ = (uint8_t)(0xE0 | point >> 12);
    *to++ = (uint8_t)(0x80 | (point >> 6 & 63));
    *to++ = (uint8_t)(0x80 | (point & 63));
  } else {
    *to++ = (uint8_t)(0xF0 | point >> 18);
    *to++ = (uint8_t)(0x80 | (point >> 12 & 63));
    *to++ = (uint8_t)(0x80 | (point >> 6 & 63));
    *to++ = (uint8_t)(0x80 | (point & 63));
  }
  return to;
}

/* Write a text without its escapes, which is never longer; return the end of the written bytes. */
static uint8_t *unescaped(uint8_t *to, const Text *it) {
  for (At at = it->begin; at < it->end;) {
    if (*at != '\\') {
      *to++ = *at++;
    } else if (at[1] == 'u') {
      int point = hex4(at + 2, it->end);
      at += 6;
      if (point >= 0xD800 && point <= 0xDBFF) {
        point = 0x10000 + ((point - 0xD800) << 10) + hex4(at + 2, it->end) - 0xDC00;
        at += 6;
      }
      to = encoded(to, point);
    } else {
      static const char from[] = "\"\\/bfnrt", as[] = "\"\\/\b\f\n\r\t";
      *to++ = (uint8_t)as[strchr(from, at[1]) - from];
      at += 2;
    }
  }
  return to;
}
