/* Judge the records of a block in one pass: each is "clean" or "not sure". Python makes messages and edits.

   A table, made in Python from the models, describes valid records. A record that matches it exactly is clean. Any
   other record is not sure, which costs time and nothing else; so every doubt ends there. Nothing outside the block is
   read. No Python object is changed meanwhile, so other threads run. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>

#include "_text.h"

/* ---- the table: in the order of `compiled.KINDS` and `compiled.FLAGS` ---- */

enum { TEXT, ID, EMAIL, UUID, DATE, NUMBER, BOOLEAN, ENUM, FREE, OBJECT, LIST, NEVER };

enum {
  NULLABLE = 1,      /* null stays */
  OPTIONAL = 2,      /* null is cut */
  OWNER = 4,         /* the record's owner */
  UNIQUE = 8,        /* its second unique key, in lower case */
  UNITS = 16,        /* the list whose elements are the record's units */
  KEY = 32,          /* the key of an amount */
  AMOUNT = 64,       /* the amount */
  NOT_NEGATIVE = 128,
  LATER = 256,       /* a date after the table's `now` */
  IS_TRUE = 512,
  COUNTS_IF = 1024,  /* the amount counts if this text is one of the table's words, else it is zero */
};

enum { DROPS = 1, MARK = 2 }; /* of an unknown field: it counts as dropped; it may be cut only with listed values */

enum { MOST_FIELDS = 64, MOST_EXTRAS = 64, MOST_NEWS = 8, MOST_NAME = 64 };
enum { KEY_BITS = 13, FEW_KEY_BITS = 7, MOST_KEYS = 1 << (KEY_BITS - 1) }; /* two slots for each key */
enum { DEPTH = 64, FREE_NAMES = 32, UUID_BYTES = 36, NUMBER_BYTES = 30, ZERO_AMOUNT = -1 };

typedef struct {
  At name; /* with its closing quote */
  int length, kind, flags, longest, child;
  uint64_t first, mask, last; /* the first eight bytes of name and quote, the mask of those that exist, the last eight */
  PyObject *words;
} Field;

typedef struct {
  int count, adds;
  uint64_t required;
  Field *fields;
} Shape;

typedef struct {
  At name;
  int length, flags;
  PyObject *values;
} Extra;

typedef struct {
  PyObject *spec; /* owns every text that the table points to */
  PyObject *member, *part;                       /* the classes of `edit` */
  PyObject *integer, *decimal, *zero, *constant; /* the first two make a Decimal from an int, and from a text */
  Shape *shapes;
  Extra extras[MOST_EXTRAS];
  PyObject *words; /* of COUNTS_IF */
  int shape_count, extra_count, digits, longest, grouped;
  long long now, room, most_units;
} Table;

/* ---- one run over a block, and its findings ---- */

typedef struct { At begin, end; int clean; } Found;
typedef struct { At begin, end; } Part;
typedef struct { int key, begin, length; } Amount;
typedef struct {
  size_t owner, owner_length, unique, unique_length; /* in `texts` */
  size_t amounts, cuts, dropped;                        /* counts in these vectors after this row */
  Py_ssize_t units, low, high;
  int plain; /* the unique key is ASCII */
} Row;
typedef struct { At name, end, value, value_end; } News;

typedef struct {
  const Table *table;
  At base, end;
  Py_ssize_t limit; /* of a record, in bytes */
  Vector found, rows, texts, amounts, cuts, dropped;
  At keys[MOST_KEYS];
  uint16_t slots[2 * MOST_KEYS];
  int key_bits, key_count, full, failed;
  News news[MOST_NEWS];
  int news_count;
  /* of the current object that adds an amount (the first line), and of the current record */
  int key, counts, has_amount;
  Part amount, list;
  Row row;
} Run;

static void *more(Run *run, Vector *it, size_t wanted) {
  void *at = grown(it, wanted);
  if (at == NULL) run->failed = 1;
  return at;
}

/* ---- ids and e-mails ---- */

static int same(At at, At end, const char *text, size_t length) {
  return (size_t)(end - at) >= length && memcmp(at, text, length) == 0;
}

/* Count the characters of a text. */
static long long characters(const Text *it) {
  long long count = 0;
  for (At at = it->begin; at < it->end; count++) {
    if (*at == '\\') at = escape(at, it->end);
    else at = *at < 0x80 ? at + 1 : character(at, it->end);
  }
  return count;
}

/* Append a text without its escapes to `texts`; return its place there, and set `length`. It is never longer. */
static uint8_t *decoded(Run *run, const Text *it, size_t *length) {
  size_t most = (size_t)(it->end - it->begin);
  uint8_t *begin = more(run, &run->texts, most);
  if (begin == NULL) return NULL;
  if (it->escaped) {
    *length = (size_t)(unescaped(begin, it) - begin);
  } else {
    memcpy(begin, it->begin, most);
    *length = most;
  }
  run->texts.count -= most - *length;
  return begin;
}

/* Return the code point that begins here, in valid UTF-8. */
static int point_at(At at, int *bytes) {
  if (*at < 0x80) { *bytes = 1; return *at; }
  if (*at < 0xE0) { *bytes = 2; return (*at & 31) << 6 | (at[1] & 63); }
  if (*at < 0xF0) { *bytes = 3; return (*at & 15) << 12 | (at[1] & 63) << 6 | (at[2] & 63); }
  *bytes = 4;
  return (*at & 7) << 18 | (at[1] & 63) << 12 | (at[2] & 63) << 6 | (at[3] & 63);
}

/* As `values.good_id`. */
static int good_id(At at, At end) {
  int count = 0, bytes;
  if (end - at == 7 && memcmp(at, "migrate", 7) == 0) return 0;
  for (; at < end; at += bytes, count++) {
    int point = point_at(at, &bytes);
    if (point < 32 || point == '/' || (point >= 127 && point < 160)) return 0;
  }
  return count > 0 && count <= 255;
}

/* As `values.good_email`. */
static int good_email(At at, At end) {
  enum { LONGEST = 254, LONGEST_LOCAL = 64, LONGEST_LABEL = 63 };
  int domain = 0, count = 0, part = 0, last = 0, bytes; /* `part`: characters since a dot or the @ */
  for (; at < end; at += bytes, count++) {
    int point = point_at(at, &bytes);
    if (point == '.' || point == '@') {
      if (part == 0 || (domain && last == '-') || (point == '@' && (domain || count > LONGEST_LOCAL))) return 0;
      domain |= point == '@';
      part = 0;
      continue;
    }
    if (point < 128) {
      int dash = domain && point == '-' && part > 0;
      if (!dash && !is((uint8_t)point, domain ? IS_LETTER : IS_ATOM)) return 0;
    } else if (point <= 0xA0 || !Py_UNICODE_ISPRINTABLE((Py_UCS4)point)) {
      return 0;
    }
    part++;
    if (domain && part > LONGEST_LABEL) return 0;
    last = point;
  }
  return domain && part > 0 && last != '-' && count <= LONGEST;
}

/* ---- dates and numbers ---- */

static int two(At at) { return is(at[0], IS_DIGIT) && is(at[1], IS_DIGIT) ? (at[0] - '0') * 10 + at[1] - '0' : -1; }

/* Whether this is a date and time with a zone in RFC 3339; set `moment` to its microseconds since 1970. */
static int date(At at, At end, long long *moment) {
  static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
  static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  if (end - at < 20 || at[4] != '-' || at[7] != '-' || at[10] != 'T' || at[13] != ':' || at[16] != ':') return 0;
  int century = two(at), year = two(at + 2), month = two(at + 5), day = two(at + 8);
  int hour = two(at + 11), minute = two(at + 14), second = two(at + 17);
  if (century < 10 || year < 0 || month < 1 || month > 12 || day < 1) return 0;
  if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59) return 0;
  year += century * 100;
  int leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  if (year > 9998 || day > days[month - 1] + (month == 2 && leap)) return 0;
  at += 19;
  long long micros = 0;
  if (*at == '.') {
    long long unit = 100000;
    At first = ++at;
    for (; at < end && is(*at, IS_DIGIT) && unit > 0; at++, unit /= 10) micros += (*at - '0') * unit;
    if (at == first || at >= end) return 0;
  }
  long long offset = 0;
  if (*at == 'Z') {
    if (at + 1 != end) return 0;
  } else {
    if ((*at != '+' && *at != '-') || end - at != 6 || at[3] != ':') return 0;
    int hours = two(at + 1), minutes = two(at + 4);
    if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59) return 0;
    offset = (hours * 60 + minutes) * 60LL;
    if (*at == '-') offset = -offset;
  }
  long long past = year - 1, days_past = past * 365 + past / 4 - past / 100 + past / 400;
  days_past += before[month - 1] + (month > 2 && leap) + day - 719163;
  *moment = (days_past * 86400 + hour * 3600LL + minute * 60 + second - offset) * 1000000 + micros;
  return 1;
}

/* Skip digits: return the place after them. */
static At digits(At at, At end) {
  while (at < end && is(*at, IS_DIGIT)) at++;
  return at;
}

/* Skip a JSON number; set `point` and `exponent` to their places, or NULL. */
static At any_number(At at, At end, At *point, At *exponent) {
  *point = *exponent = NULL;
  if (at < end && *at == '-') at++;
  At first = at;
  at = digits(at, end);
  if (at == first || (*first == '0' && at - first > 1)) return NULL;
  if (at < end && *at == '.') {
    *point = at;
    first = ++at;
    at = digits(at, end);
    if (at == first) return NULL;
  }
  if (at < end && (*at | 32) == 'e') {
    *exponent = at++;
    if (at < end && (*at == '+' || *at == '-')) at++;
    first = at;
    at = digits(at, end);
    if (at == first) return NULL;
  }
  return at;
}

/* Whether the value of a number with an exponent may be sent. */
static int good_exponent(const Table *table, At at, At point, At exponent, At end) {
  uint64_t value = 0;
  int power = 0, count = 0, negative = exponent[1] == '-';
  for (At it = at; it < exponent; it++) {
    if (!is(*it, IS_DIGIT)) continue;
    if (++count > 17) return 0;
    value = value * 10 + (uint64_t)(*it - '0');
  }
  At it = exponent + 1 + (negative || exponent[1] == '+');
  if (end - it > 2) return 0;
  for (; it < end; it++) power = power * 10 + (*it - '0');
  if (power > 20) return 0;
  if (value == 0) return 1;
  power = (negative ? -power : power) - (point ? (int)(exponent - point) - 1 : 0);
  for (; value % 10 == 0; value /= 10) power++;
  if (power < -table->digits) return 0;
  for (; value > 0; value /= 10) power++;
  return power <= table->longest;
}

/* Skip a number that may be sent, as in `values.Numbers`. */
static At number(const Table *table, At at, At end) {
  At point, exponent, after = any_number(at, end, &point, &exponent);
  if (after == NULL || after - at > NUMBER_BYTES) return NULL;
  if (exponent) return good_exponent(table, at, point, exponent, after) ? after : NULL;
  if ((point ? point : after) - at - (*at == '-') > table->longest) return NULL;
  for (At it = after; point && it - point - 1 > table->digits; it--) {
    if (it[-1] != '0') return NULL;
  }
  return after;
}

/* ---- values of any content ---- */

static int repeated(const Part *names, int count, const Text *name) {
  ptrdiff_t length = name->end - name->begin;
  for (int i = 0; i < count; i++) {
    if (names[i].end - names[i].begin == length && memcmp(names[i].begin, name->begin, (size_t)length) == 0) return 1;
  }
  return 0;
}

/* Skip any value. `unique`: no object in it may repeat a field. */
static At anything(At at, At end, int depth, int unique) {
  Text it;
  At point, exponent;
  if (at >= end || depth > DEPTH) return NULL;
  if (*at == '"') return text(at, end, &it);
  if (*at == 't') return same(at, end, "true", 4) ? at + 4 : NULL;
  if (*at == 'f') return same(at, end, "false", 5) ? at + 5 : NULL;
  if (*at == 'n') return same(at, end, "null", 4) ? at + 4 : NULL;
  if (*at != '{' && *at != '[') {
    At after = any_number(at, end, &point, &exponent);
    return after && unique && after - at > NUMBER_BYTES ? NULL : after;
  }
  Part names[FREE_NAMES];
  int count = 0, object = *at == '{';
  uint8_t closing = object ? '}' : ']';
  at = blanks(at + 1, end);
  if (at < end && *at == closing) return at + 1;
  for (;;) {
    if (object) {
      at = text(at, end, &it);
      if (at == NULL) return NULL;
      if (unique) {
        if (it.escaped || count == FREE_NAMES || repeated(names, count, &it)) return NULL;
        names[count++] = (Part){it.begin, it.end};
      }
      at = blanks(at, end);
      if (at >= end || *at != ':') return NULL;
      at = blanks(at + 1, end);
    }
    at = anything(at, end, depth + 1, unique);
    if (at == NULL) return NULL;
    at = blanks(at, end);
    if (at >= end) return NULL;
    if (*at == closing) return at + 1;
    if (*at != ',') return NULL;
    at = blanks(at + 1, end);
  }
}

/* ---- values that the table describes ---- */

static At object(Run *run, At at, const Shape *shape, int depth);

static int is_word(const Text *it, PyObject *words) {
  size_t length = (size_t)(it->end - it->begin);
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(words); i++) {
    PyObject *word = PyTuple_GET_ITEM(words, i);
    if ((size_t)PyBytes_GET_SIZE(word) == length && memcmp(PyBytes_AS_STRING(word), it->begin, length) == 0) return 1;
  }
  return 0;
}

static int good_uuid(const Text *it) {
  if (it->end - it->begin != UUID_BYTES) return 0;
  for (int i = 0; i < UUID_BYTES; i++) {
    int dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash ? it->begin[i] != '-' : !is(it->begin[i], IS_HEX)) return 0;
  }
  return 1;
}

/* Return the number of a key in the block, a new one if it was not met before; -1 for no UUID, or a full table. */
static int key_of(Run *run, const Text *it) {
  if (it->end - it->begin != UUID_BYTES) return -1;
  uint64_t hash = 0, some;
  for (int i = 0; i + 8 <= UUID_BYTES; i += 7) {
    memcpy(&some, it->begin + i, 8);
    hash = (hash ^ some) * 0x9E3779B97F4A7C15u;
  }
  size_t most = (size_t)1 << (run->key_bits - 1);
  for (size_t slot = hash >> (64 - run->key_bits);; slot = (slot + 1) % (2 * most)) {
    int key = run->slots[slot] - 1;
    if (key >= 0 && memcmp(run->keys[key], it->begin, UUID_BYTES) == 0) return key;
    if (key >= 0) continue;
    if (!good_uuid(it)) return -1;
    if ((size_t)run->key_count == most) {
      run->full = 1;
      return -1;
    }
    run->keys[run->key_count] = it->begin;
    run->slots[slot] = (uint16_t)++run->key_count;
    return run->key_count - 1;
  }
}

/* Store the record's owner, or its second unique key, if it is valid. */
static int noted(Run *run, const Field *field, const Text *it) {
  size_t length;
  uint8_t *begin = decoded(run, it, &length);
  if (begin == NULL) return 0;
  size_t place = (size_t)(begin - (uint8_t *)run->texts.data);
  if (field->kind == ID ? !good_id(begin, begin + length) : !good_email(begin, begin + length)) return 0;
  if (field->flags & OWNER) {
    run->row.owner = place;
    run->row.owner_length = length;
  }
  if (field->flags & UNIQUE) {
    run->row.unique = place;
    run->row.unique_length = length;
    run->row.plain = 1;
    for (size_t i = 0; i < length; i++) {
      if (begin[i] >= 0x80) run->row.plain = 0;
    }
    for (size_t i = 0; run->row.plain && i < length; i++) {
      if (begin[i] >= 'A' && begin[i] <= 'Z') begin[i] |= 32;
    }
  }
  return 1;
}

static At text_value(Run *run, At at, const Field *field) {
  const Table *table = run->table;
  Text it;
  long long moment;
  At after = text(at, run->end, &it);
  if (after == NULL) return NULL;
  switch (field->kind) {
  case ID:
  case EMAIL:
    return noted(run, field, &it) ? after : NULL;
  case UUID:
    if (field->flags & KEY) return (run->key = key_of(run, &it)) >= 0 ? after : NULL;
    return good_uuid(&it) ? after : NULL;
  case DATE:
    if (!date(it.begin, it.end, &moment) || ((field->flags & LATER) && moment <= table->now)) return NULL;
    return after;
  case ENUM:
    return is_word(&it, field->words) ? after : NULL;
  }
  if (field->longest && it.end - it.begin > field->longest && characters(&it) > field->longest) return NULL;
  if (field->flags & COUNTS_IF) {
    if (it.escaped) return NULL;
    run->counts = is_word(&it, table->words);
  }
  return after;
}

static At list(Run *run, At at, const Field *field, int depth) {
  At end = run->end, begin = at + 1;
  Py_ssize_t count = 0;
  if (*at != '[') return NULL;
  at = blanks(begin, end);
  if (at < end && *at == ']') return field->flags & UNITS ? NULL : at + 1;
  for (;; at = blanks(at + 1, end)) {
    at = object(run, at, &run->table->shapes[field->child], depth + 1);
    if (at == NULL) return NULL;
    count++;
    at = blanks(at, end);
    if (at >= end) return NULL;
    if (*at == ']') break;
    if (*at != ',') return NULL;
  }
  if (field->flags & UNITS) {
    if (count > run->table->most_units) return NULL;
    run->row.units = count;
    run->list = (Part){begin, at};
  }
  return at + 1;
}

/* Skip a valid value of a field, other than null. */
static At value(Run *run, At at, const Field *field, int depth) {
  At end = run->end, after;
  switch (field->kind) {
  case NUMBER:
    after = number(run->table, at, end);
    if (after == NULL || ((field->flags & NOT_NEGATIVE) && *at == '-')) return NULL;
    if (field->flags & AMOUNT) {
      run->amount = (Part){at, after};
      run->has_amount = 1;
    }
    return after;
  case BOOLEAN:
    if (same(at, end, "true", 4)) return at + 4;
    return !(field->flags & IS_TRUE) && same(at, end, "false", 5) ? at + 5 : NULL;
  case FREE:
    return *at == '{' ? anything(at, end, depth + 1, 1) : NULL;
  case OBJECT:
    return object(run, at, &run->table->shapes[field->child], depth + 1);
  case LIST:
    return list(run, at, field, depth);
  case NEVER:
    return NULL;
  default:
    return text_value(run, at, field);
  }
}

/* ---- fields that are cut ---- */

/* The members of an object so far. A cut after a kept member takes the comma before it, else the comma after it. */
typedef struct {
  At first, last; /* the begin of the first member, the end of the last one */
  int kept, leading;
} Members;

static int cut(Run *run, At begin, At end) {
  Part *part = more(run, &run->cuts, 1);
  if (part == NULL) return 0;
  *part = (Part){begin, end};
  return 1;
}

/* Keep the member that begins here. The cut of members before the first kept one ends at its beginning. */
static int keep(Run *run, Members *members, At begin) {
  if (members->kept++ == 0 && members->leading) return cut(run, members->first, begin);
  return 1;
}

/* Cut the member that ends here. */
static int drop(Run *run, Members *members, At end) {
  if (members->kept) return cut(run, members->last, end);
  members->leading = 1;
  return 1;
}

static void remember(Run *run, At name, At end, At begin, At after) {
  if (run->news_count < MOST_NEWS && end - name <= MOST_NAME && after - begin <= MOST_NAME) {
    run->news[run->news_count++] = (News){name, end, begin, after};
  }
}

/* Skip an unknown field of the outermost object that may be cut. */
static At unknown(Run *run, At name, uint64_t *seen) {
  const Table *table = run->table;
  const Extra *extra = NULL;
  Text it;
  At end = run->end, at = text(name, end, &it);
  if (at == NULL || it.escaped) return NULL;
  int length = (int)(it.end - it.begin), which = 0;
  for (; which < table->extra_count; which++) {
    extra = &table->extras[which];
    if (extra->length == length && memcmp(extra->name, it.begin, (size_t)length) == 0) break;
  }
  at = blanks(at, end);
  if (at >= end || *at != ':') return NULL;
  At begin = blanks(at + 1, end), after = anything(begin, end, 1, 0);
  if (after == NULL) return NULL;
  if (which == table->extra_count) {
    remember(run, it.begin, it.end, begin, begin);
    return NULL;
  }
  if (*seen >> which & 1) return NULL;
  *seen |= (uint64_t)1 << which;
  Text written = {begin, after, 0, 0};
  if ((extra->flags & MARK) && !is_word(&written, extra->values)) {
    remember(run, it.begin, it.end, begin, after);
    return NULL;
  }
  if (extra->flags & DROPS) {
    uint8_t *dropped = more(run, &run->dropped, 1);
    if (dropped == NULL) return NULL;
    *dropped = (uint8_t)which;
  }
  return after;
}

/* ---- objects and records ---- */

enum { NO_FIELD = -1, REPEATED = -2 };

static uint64_t eight(At at) {
  uint64_t some;
  memcpy(&some, at, 8);
  return some;
}

/* Whether a field's name and its closing quote begin here; `first` has the eight bytes from here on. */
static int is_named(const Field *field, At name, At end, uint64_t first) {
  ptrdiff_t size = field->length + 1;
  if ((first ^ field->first) & field->mask) return 0;
  if (size <= 8) return 1;
  if (end - name < size || eight(name + size - 8) != field->last) return 0;
  return size <= 16 || memcmp(name + 8, field->name + 8, (size_t)size - 16) == 0;
}

/* Find the field of a shape whose name begins here. */
static int known(const Shape *shape, At name, At end, int *next, uint64_t *seen) {
  uint64_t first = 0; /* bytes after the block's end count as zero, which no name holds */
  if (end - name >= 8) first = eight(name);
  else memcpy(&first, name, (size_t)(end - name));
  for (int i = 0, at = *next; i < shape->count; i++, at++) { /* usually the next one */
    if (at >= shape->count) at = 0;
    const Field *field = &shape->fields[at];
    if (is_named(field, name, end, first)) {
      if (*seen >> at & 1) return REPEATED;
      *seen |= (uint64_t)1 << at;
      *next = at + 1;
      return at;
    }
  }
  return NO_FIELD;
}

static int add_amount(Run *run) {
  Amount *amount = more(run, &run->amounts, 1);
  if (amount == NULL || !run->has_amount || (run->key < 0 && run->table->constant == Py_None)) return 0;
  int zero = !run->counts;
  *amount = (Amount){run->key, zero ? ZERO_AMOUNT : (int)(run->amount.begin - run->base),
                     zero ? 0 : (int)(run->amount.end - run->amount.begin)};
  return 1;
}

static At object(Run *run, At at, const Shape *shape, int depth) {
  At end = run->end;
  uint64_t seen = 0, extras = 0;
  int next = 0;
  Members members = {NULL, NULL, 0, 0};
  if (at >= end || *at != '{' || depth > DEPTH) return NULL;
  if (shape->adds) {
    run->key = -1;
    run->has_amount = 0;
    run->counts = 1;
  }
  at = blanks(at + 1, end);
  if (at < end && *at == '}') return shape->required || shape->adds ? NULL : at + 1;
  for (;; at = blanks(at + 1, end)) {
    At begin = at;
    if (at >= end || *at != '"') return NULL;
    if (members.first == NULL) members.first = begin;
    int which = known(shape, at + 1, end, &next, &seen);
    if (which == REPEATED || (which == NO_FIELD && depth > 0)) return NULL;
    if (which == NO_FIELD) {
      at = unknown(run, begin, &extras);
      if (at == NULL || !drop(run, &members, at)) return NULL;
    } else {
      const Field *field = &shape->fields[which];
      at = blanks(at + field->length + 2, end);
      if (at >= end || *at != ':') return NULL;
      at = blanks(at + 1, end);
      if (at >= end) return NULL;
      if (*at != 'n' || (field->flags & NULLABLE)) {
        if (!keep(run, &members, begin)) return NULL;
        at = *at == 'n' ? (same(at, end, "null", 4) ? at + 4 : NULL) : value(run, at, field, depth);
        if (at == NULL) return NULL;
      } else {
        if (!(field->flags & OPTIONAL) || !same(at, end, "null", 4)) return NULL;
        at += 4;
        if (!drop(run, &members, at)) return NULL;
      }
    }
    members.last = at;
    at = blanks(at, end);
    if (at >= end) return NULL;
    if (*at == '}') break;
    if (*at != ',') return NULL;
  }
  if (members.kept == 0 || (seen & shape->required) != shape->required) return NULL;
  if (shape->adds && !add_amount(run)) return NULL;
  return at + 1;
}

/* Return the size of a record without its cuts; store the place that its list then has. */
static Py_ssize_t size_of(Run *run, At begin, At end, size_t cuts) {
  Py_ssize_t size = end - begin;
  if (run->list.begin) {
    run->row.low = run->list.begin - begin;
    run->row.high = run->list.end - begin;
  }
  for (size_t i = cuts; i < run->cuts.count; i++) {
    Part *part = (Part *)run->cuts.data + i;
    Py_ssize_t gone = part->end - part->begin;
    size -= gone;
    if (run->list.begin && part->end <= run->list.begin) run->row.low -= gone;
    if (run->list.begin && part->end <= run->list.end) run->row.high -= gone;
  }
  return size;
}

/* Skip a clean record, and add its row. If `must` is given, the record ends there. */
static At record(Run *run, At at, At must) {
  size_t texts = run->texts.count, amounts = run->amounts.count, cuts = run->cuts.count, dropped = run->dropped.count;
  run->row = (Row){.units = 1};
  run->list = (Part){NULL, NULL};
  At after = object(run, at, &run->table->shapes[0], 0);
  if (after && (!must || after == must) && after - at <= run->limit &&
      size_of(run, at, after, cuts) <= run->table->room) {
    Row *row = more(run, &run->rows, 1);
    if (row) {
      *row = run->row;
      row->amounts = run->amounts.count;
      row->cuts = run->cuts.count;
      row->dropped = run->dropped.count;
      return after;
    }
  }
  run->texts.count = texts;
  run->amounts.count = amounts;
  run->cuts.count = cuts;
  run->dropped.count = dropped;
  return NULL;
}

static void find(Run *run, At begin, At end, int clean) {
  Found *found = more(run, &run->found, 1);
  if (found) *found = (Found){begin, end, clean};
}

/* Judge elements of an array from the first byte of one on, at most `most`; stop at one whose end is not sure. */
static void elements(Run *run, At at, size_t most) {
  while (run->found.count < most && !run->failed) {
    At after = record(run, at, NULL);
    int clean = after != NULL;
    if (!clean) {
      if (run->full && run->found.count) break; /* the next block has room for its keys */
      after = anything(at, run->end, 0, 0);
      At next = after ? blanks(after, run->end) : run->end;
      if (next >= run->end || (*next != ',' && *next != ']') || after - at > run->limit) break;
    }
    find(run, at, after, clean);
    at = blanks(after, run->end);
    if (at >= run->end || *at != ',') break;
    at = blanks(at + 1, run->end);
  }
}

/* Judge records whose places are given as pairs of begin and end. `prove`: stop at one that is no JSON value. */
static void framed(Run *run, const int64_t *places, size_t count, int prove) {
  for (size_t i = 0; i < count && !run->failed; i++) {
    At begin = run->base + places[2 * i], end = run->end = run->base + places[2 * i + 1];
    int clean = record(run, begin, end) != NULL;
    if (!clean && prove && (end - begin > run->limit || anything(begin, end, 0, 0) != end)) return;
    find(run, begin, end, clean);
  }
}

/* ---- the result as Python objects ---- */

static int put(PyObject *list, Py_ssize_t at, PyObject *it) {
  if (it == NULL) return 0;
  PyList_SET_ITEM(list, at, it);
  return 1;
}

static PyObject *ascii(At at, size_t length) {
  PyObject *text = PyUnicode_New((Py_ssize_t)length, 127);
  if (text) memcpy(PyUnicode_1BYTE_DATA(text), at, length);
  return text;
}

static PyObject *lower(PyObject *text) {
  PyObject *found = text ? PyObject_CallMethod(text, "lower", NULL) : NULL;
  Py_XDECREF(text);
  return found;
}

/* Return the bytes of a record without its cuts. */
static PyObject *edited(const Found *found, const Part *cuts, size_t count) {
  Py_ssize_t size = found->end - found->begin;
  for (size_t i = 0; i < count; i++) size -= cuts[i].end - cuts[i].begin;
  PyObject *body = PyBytes_FromStringAndSize(NULL, size);
  if (body == NULL) return NULL;
  char *to = PyBytes_AS_STRING(body);
  At at = found->begin;
  for (size_t i = 0; i < count; i++) {
    memcpy(to, at, (size_t)(cuts[i].begin - at));
    to += cuts[i].begin - at;
    at = cuts[i].end;
  }
  memcpy(to, at, (size_t)(found->end - at));
  return body;
}

/* One list for each column, in the order of `compiled.Found`. */
enum {
  STARTS, ENDS, UNSURE, INDEX, OWNERS, UNIQUES, ROW_UNITS, INNER, KEYS, AMOUNTS, UPTO, EDITED, DROPPED, NEWS, COLUMNS
};

/* Make a Decimal from a text. Most are integers, for which this way takes a fourth of the time. */
static PyObject *decimal(const Table *table, At at, size_t length) {
  int negative = *at == '-';
  long long value = 0;
  At it = at + negative, after = at + length;
  for (; it < after && is(*it, IS_DIGIT) && length <= 18; it++) value = value * 10 + (*it - '0');
  int integer = it == after && !(negative && value == 0); /* -0 is not 0 */
  PyObject *given = integer ? PyLong_FromLongLong(negative ? -value : value) : ascii(at, length);
  PyObject *found = given ? PyObject_CallOneArg(integer ? table->integer : table->decimal, given) : NULL;
  Py_XDECREF(given);
  return found;
}

static PyObject *amount_of(const Run *run, const Amount *it) {
  if (it->begin == ZERO_AMOUNT) return Py_NewRef(run->table->zero);
  return decimal(run->table, run->base + it->begin, (size_t)it->length);
}

static int put_amounts(const Run *run, PyObject **out) {
  const Table *table = run->table;
  PyObject **keys = PyMem_Calloc((size_t)run->key_count + 1, sizeof(PyObject *));
  int good = keys != NULL;
  for (int i = 0; good && i < run->key_count; i++) {
    keys[i] = lower(ascii(run->keys[i], UUID_BYTES));
    good = keys[i] != NULL;
  }
  for (size_t i = 0; good && i < run->amounts.count; i++) {
    const Amount *it = (const Amount *)run->amounts.data + i;
    good = put(out[AMOUNTS], (Py_ssize_t)i, amount_of(run, it));
    PyList_SET_ITEM(out[KEYS], (Py_ssize_t)i, Py_NewRef(table->constant != Py_None ? table->constant : keys[it->key]));
  }
  for (int i = 0; keys && i < run->key_count; i++) Py_XDECREF(keys[i]);
  PyMem_Free(keys);
  return good;
}

static int put_row(const Run *run, PyObject **out, size_t at, const Found *found, Py_ssize_t index) {
  const Row *row = (const Row *)run->rows.data + at;
  size_t cuts = at ? row[-1].cuts : 0, dropped = at ? row[-1].dropped : 0;
  const uint8_t *texts = run->texts.data;
  PyObject *owner = PyUnicode_DecodeUTF8((const char *)texts + row->owner, (Py_ssize_t)row->owner_length, NULL);
  Py_ssize_t to = (Py_ssize_t)at;
  if (!put(out[OWNERS], to, owner) || !put(out[INDEX], to, PyLong_FromSsize_t(index)) ||
      !put(out[ROW_UNITS], to, PyLong_FromSsize_t(row->units)) ||
      !put(out[UPTO], to + 1, PyLong_FromSize_t(row->amounts)))
    return 0;
  if (run->table->grouped) {
    PyObject *low = PyLong_FromSsize_t(row->low), *high = PyLong_FromSsize_t(row->high);
    PyObject *pair = low && high ? PyTuple_New(2) : NULL;
    if (pair == NULL) {
      Py_XDECREF(low);
      Py_XDECREF(high);
      return 0;
    }
    PyTuple_SET_ITEM(pair, 0, low);
    PyTuple_SET_ITEM(pair, 1, high);
    PyList_SET_ITEM(out[INNER], to, pair);
  } else if (row->plain) {
    if (!put(out[UNIQUES], to, ascii(texts + row->unique, row->unique_length))) return 0;
  } else {
    const char *unique = (const char *)texts + row->unique;
    if (!put(out[UNIQUES], to, lower(PyUnicode_DecodeUTF8(unique, (Py_ssize_t)row->unique_length, NULL)))) return 0;
  }
  if (row->cuts > cuts) {
    PyObject *body = edited(found, (const Part *)run->cuts.data + cuts, row->cuts - cuts);
    PyObject *key = PyLong_FromSsize_t(to);
    int good = body && key && PyDict_SetItem(out[EDITED], key, body) == 0;
    Py_XDECREF(body);
    Py_XDECREF(key);
    if (!good) return 0;
  }
  if (row->dropped > dropped) {
    const char *fields = (const char *)run->dropped.data + dropped;
    PyObject *pair = Py_BuildValue("(ny#)", index, fields, (Py_ssize_t)(row->dropped - dropped));
    int good = pair && PyList_Append(out[DROPPED], pair) == 0;
    Py_XDECREF(pair);
    return good;
  }
  return 1;
}

static int put_all(const Run *run, PyObject **out) {
  const Found *found = run->found.data;
  if (!put(out[UPTO], 0, PyLong_FromLong(0))) return 0;
  for (size_t i = 0, row = 0, unsure = 0; i < run->found.count; i++) {
    Py_ssize_t at = (Py_ssize_t)i;
    if (!put(out[STARTS], at, PyLong_FromSsize_t(found[i].begin - run->base)) ||
        !put(out[ENDS], at, PyLong_FromSsize_t(found[i].end - run->base)))
      return 0;
    if (found[i].clean) {
      if (!put_row(run, out, row++, &found[i], at)) return 0;
    } else if (!put(out[UNSURE], (Py_ssize_t)unsure++, PyLong_FromSsize_t(at))) {
      return 0;
    }
  }
  for (int i = 0; i < run->news_count; i++) {
    const News *it = &run->news[i];
    if (!put(out[NEWS], i, Py_BuildValue("(y#y#)", (const char *)it->name, (Py_ssize_t)(it->end - it->name),
                                         (const char *)it->value, (Py_ssize_t)(it->value_end - it->value))))
      return 0;
  }
  return put_amounts(run, out);
}

static PyObject *result(const Run *run) {
  Py_ssize_t rows = (Py_ssize_t)run->rows.count, all = (Py_ssize_t)run->found.count;
  Py_ssize_t amounts = (Py_ssize_t)run->amounts.count, grouped = run->table->grouped;
  Py_ssize_t sizes[COLUMNS] = {[STARTS] = all, [ENDS] = all, [UNSURE] = all - rows, [INDEX] = rows, [OWNERS] = rows,
                               [UNIQUES] = grouped ? 0 : rows, [ROW_UNITS] = rows, [INNER] = grouped ? rows : 0,
                               [KEYS] = amounts, [AMOUNTS] = amounts, [UPTO] = rows + 1, [NEWS] = run->news_count};
  PyObject *out[COLUMNS] = {NULL}, *all_of_them = PyTuple_New(COLUMNS);
  int good = all_of_them != NULL && !run->failed;
  for (int i = 0; good && i < COLUMNS; i++) {
    out[i] = i == EDITED ? PyDict_New() : PyList_New(sizes[i]);
    good = out[i] != NULL;
    if (good) PyTuple_SET_ITEM(all_of_them, i, out[i]);
  }
  if (run->failed) PyErr_NoMemory();
  if (good && put_all(run, out)) return all_of_them;
  Py_XDECREF(all_of_them);
  return NULL;
}

/* Make a run over the bytes from `low` to `high`. The places that it finds count from `low`. */
static Run *begin(const Table *table, const Py_buffer *data, Py_ssize_t low, Py_ssize_t high, Py_ssize_t limit,
                  int key_bits) {
  Run *run = malloc(sizeof(Run));
  if (run == NULL) return (Run *)PyErr_NoMemory();
  memset(run->slots, 0, sizeof(*run->slots) << key_bits);
  run->table = table;
  run->key_bits = key_bits;
  run->base = (At)data->buf + low;
  run->end = (At)data->buf + high;
  run->limit = limit;
  run->found = (Vector){.size = sizeof(Found)};
  run->rows = (Vector){.size = sizeof(Row)};
  run->texts = (Vector){.size = 1};
  run->amounts = (Vector){.size = sizeof(Amount)};
  run->cuts = (Vector){.size = sizeof(Part)};
  run->dropped = (Vector){.size = 1};
  run->key_count = run->full = run->failed = run->news_count = 0;
  return run;
}

static void discard(Run *run) {
  Vector *all[] = {&run->found, &run->rows, &run->texts, &run->amounts, &run->cuts, &run->dropped};
  for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) free(all[i]->data);
  free(run);
}

static PyObject *end(Run *run) {
  PyObject *found = result(run);
  discard(run);
  return found;
}

/* ---- the clean parts of a record that is not sure ---- */

enum { OBJECTS, LISTS, PAIRS, LOOKED };

/* Findings by the place where they begin: members of objects, elements of lists, and (key, amount) of clean objects. */
typedef struct {
  Run *run;
  PyObject *found[LOOKED];
} Look;

/* Store an object in one of these, and take over its reference. */
static int put_at(Look *look, int into, At at, PyObject *it) {
  PyObject *key = it ? PyLong_FromSsize_t(at - look->run->base) : NULL;
  int good = key && PyDict_SetItem(look->found[into], key, it) == 0;
  Py_XDECREF(key);
  Py_XDECREF(it);
  return good;
}

static PyObject *place(const Run *run, At at) { return PyLong_FromSsize_t(at - run->base); }

/* Store the key and the amount of the object that begins here. */
static int put_pair(Look *look, At at) {
  Run *run = look->run;
  const Amount *it = (const Amount *)run->amounts.data;
  PyObject *key = run->table->constant;
  key = key != Py_None ? Py_NewRef(key) : lower(ascii(run->keys[it->key], UUID_BYTES));
  PyObject *amount = amount_of(run, it), *pair = key && amount ? PyTuple_Pack(2, key, amount) : NULL;
  Py_XDECREF(key);
  Py_XDECREF(amount);
  run->amounts.count = 0;
  return put_at(look, PAIRS, at, pair);
}

/* Skip a value that can be sent unchanged. */
static At as_it_stands(Run *run, At at, const Field *field, int depth) {
  At end = run->end, after = NULL;
  run->amounts.count = run->cuts.count = run->texts.count = 0;
  if (*at != 'n') after = value(run, at, field, depth);
  else if ((field->flags & NULLABLE) && same(at, end, "null", 4)) after = at + 4;
  return run->cuts.count ? NULL : after;
}

static At look_at(Look *look, At at, const Field *field, int depth, int *clean);

/* Add a member to an object. Fails if the object has one of this name. */
static int put_member(const Run *run, PyObject *members, const Text *name, At begin, At end, int clean) {
  PyObject *text = PyUnicode_DecodeUTF8((const char *)name->begin, name->end - name->begin, NULL);
  PyObject *all[] = {place(run, name->begin - 1), place(run, begin), place(run, end), clean ? Py_True : Py_False};
  PyObject *member = NULL;
  if (text && all[0] && all[1] && all[2] && PyDict_Contains(members, text) == 0) {
    member = PyObject_Vectorcall(run->table->member, all, 4, NULL);
  }
  int good = member && PyDict_SetItem(members, text, member) == 0;
  for (int i = 0; i < 3; i++) Py_XDECREF(all[i]);
  Py_XDECREF(text);
  Py_XDECREF(member);
  return good;
}

/* Skip an object, and add its members to `members`. */
static At look_at_members(Look *look, At at, const Shape *shape, int depth, PyObject *members) {
  Run *run = look->run;
  At end = run->end;
  uint64_t seen = 0;
  int next = 0;
  at = blanks(at + 1, end);
  if (at < end && *at == '}') return at + 1;
  for (;; at = blanks(at + 1, end)) {
    Text name;
    int clean = 0, which = at < end ? known(shape, at + 1, end, &next, &seen) : NO_FIELD;
    at = text(at, end, &name);
    if (at == NULL || name.escaped) return NULL;
    at = blanks(at, end);
    if (at >= end || *at != ':') return NULL;
    At begin = blanks(at + 1, end);
    at = which < 0 ? anything(begin, end, depth + 1, 0) : look_at(look, begin, &shape->fields[which], depth, &clean);
    if (at == NULL || !put_member(run, members, &name, begin, at, clean)) return NULL;
    at = blanks(at, end);
    if (at >= end) return NULL;
    if (*at == '}') return at + 1;
    if (*at != ',') return NULL;
  }
}

static At look_at_object(Look *look, At at, const Shape *shape, int depth) {
  PyObject *members = PyDict_New();
  At after = members ? look_at_members(look, at, shape, depth, members) : NULL;
  if (after && put_at(look, OBJECTS, at, members)) return after;
  if (!after) Py_XDECREF(members);
  return NULL;
}

/* Skip a list, and add the places of its elements to `parts`. */
static At look_at_elements(Look *look, At at, const Field *field, int depth, int *clean, PyObject *parts) {
  const Run *run = look->run;
  const Field element = {.kind = OBJECT, .child = field->child};
  At end = run->end;
  *clean = 1;
  at = blanks(at + 1, end);
  if (at < end && *at == ']') {
    *clean = !(field->flags & UNITS);
    return at + 1;
  }
  for (;; at = blanks(at + 1, end)) {
    int good;
    At begin = at;
    at = look_at(look, begin, &element, depth, &good);
    if (at == NULL) return NULL;
    PyObject *part = PyObject_CallFunction(run->table->part, "nn", begin - run->base, at - run->base);
    int added = part && PyList_Append(parts, part) == 0;
    Py_XDECREF(part);
    if (!added) return NULL;
    *clean &= good;
    at = blanks(at, end);
    if (at >= end) return NULL;
    if (*at == ']') break;
    if (*at != ',') return NULL;
  }
  if ((field->flags & UNITS) && PyList_GET_SIZE(parts) > run->table->most_units) *clean = 0;
  return at + 1;
}

static At look_at_list(Look *look, At at, const Field *field, int depth, int *clean) {
  PyObject *parts = PyList_New(0);
  At after = parts ? look_at_elements(look, at, field, depth, clean, parts) : NULL;
  if (after && put_at(look, LISTS, at, parts)) return after;
  if (!after) Py_XDECREF(parts);
  return NULL;
}

/* Skip a value; set `clean` if it can be sent unchanged. NULL: not even its end is sure. */
static At look_at(Look *look, At at, const Field *field, int depth, int *clean) {
  Run *run = look->run;
  const Shape *shapes = run->table->shapes;
  int adds = field->kind >= OBJECT && field->kind <= LIST && shapes[field->child].adds;
  *clean = 0;
  if (at >= run->end) return NULL;
  At after = adds && field->kind == LIST ? NULL : as_it_stands(run, at, field, depth);
  if (after) {
    *clean = 1;
    return adds && !put_pair(look, at) ? NULL : after;
  }
  if (field->kind == OBJECT && *at == '{') return look_at_object(look, at, &shapes[field->child], depth + 1);
  if (field->kind == LIST && *at == '[') return look_at_list(look, at, field, depth, clean);
  return anything(at, run->end, depth + 1, 0);
}

/* ---- the module ---- */

static const char TABLE[] = "streammig table";

static void free_table(PyObject *capsule) {
  Table *table = PyCapsule_GetPointer(capsule, TABLE);
  for (int i = 0; table->shapes && i < table->shape_count; i++) PyMem_Free(table->shapes[i].fields);
  PyMem_Free(table->shapes);
  Py_XDECREF(table->spec);
  PyMem_Free(table);
}

static int read_shape(PyObject *spec, Shape *shape) {
  PyObject *fields;
  if (!PyArg_ParseTuple(spec, "iO!", &shape->adds, &PyTuple_Type, &fields)) return 0;
  shape->count = (int)PyTuple_GET_SIZE(fields);
  if (shape->count > MOST_FIELDS) {
    PyErr_SetString(PyExc_ValueError, "a shape has too many fields");
    return 0;
  }
  shape->fields = PyMem_Calloc((size_t)shape->count + 1, sizeof(Field));
  if (shape->fields == NULL) {
    PyErr_NoMemory();
    return 0;
  }
  for (int i = 0; i < shape->count; i++) {
    Field *it = &shape->fields[i];
    const char *name;
    Py_ssize_t length;
    int required;
    if (!PyArg_ParseTuple(PyTuple_GET_ITEM(fields, i), "y#iiiiiO!", &name, &length, &it->kind, &it->flags, &it->longest,
                          &it->child, &required, &PyTuple_Type, &it->words))
      return 0;
    it->name = (At)name;
    it->length = (int)length - 1; /* without the closing quote */
    memcpy(&it->first, name, (size_t)(length < 8 ? length : 8));
    memset(&it->mask, 0xFF, (size_t)(length < 8 ? length : 8));
    if (length > 8) it->last = eight((At)name + length - 8);
    if (required) shape->required |= (uint64_t)1 << i;
  }
  return 1;
}

static PyObject *make_table(PyObject *module, PyObject *spec) {
  (void)module;
  Table *table = PyMem_Calloc(1, sizeof(Table));
  if (table == NULL) return PyErr_NoMemory();
  PyObject *capsule = PyCapsule_New(table, TABLE, free_table);
  if (capsule == NULL) {
    PyMem_Free(table);
    return NULL;
  }
  table->spec = Py_NewRef(spec);
  PyObject *shapes, *extras;
  int good = PyArg_ParseTuple(spec, "O!O!OOOOOOO!iiLLLi", &PyTuple_Type, &shapes, &PyTuple_Type, &extras,
                              &table->member, &table->part, &table->integer, &table->decimal, &table->zero,
                              &table->constant, &PyTuple_Type, &table->words, &table->digits, &table->longest,
                              &table->now, &table->room, &table->most_units, &table->grouped);
  if (good && PyTuple_GET_SIZE(extras) > MOST_EXTRAS) {
    PyErr_SetString(PyExc_ValueError, "too many unknown fields");
    good = 0;
  }
  if (good) {
    table->shape_count = (int)PyTuple_GET_SIZE(shapes);
    table->extra_count = (int)PyTuple_GET_SIZE(extras);
    table->shapes = PyMem_Calloc((size_t)table->shape_count + 1, sizeof(Shape));
    if (table->shapes == NULL) PyErr_NoMemory();
    good = table->shapes != NULL;
  }
  for (int i = 0; good && i < table->shape_count; i++) {
    good = read_shape(PyTuple_GET_ITEM(shapes, i), &table->shapes[i]);
  }
  for (int i = 0; good && i < table->extra_count; i++) {
    Extra *it = &table->extras[i];
    const char *name;
    Py_ssize_t length;
    good = PyArg_ParseTuple(PyTuple_GET_ITEM(extras, i), "y#iO!", &name, &length, &it->flags, &PyTuple_Type,
                            &it->values);
    it->name = (At)name;
    it->length = (int)length;
  }
  if (good) return capsule;
  Py_DECREF(capsule);
  return NULL;
}

static PyObject *judge_elements(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *capsule;
  Py_buffer data;
  Py_ssize_t low, high, most, limit;
  if (!PyArg_ParseTuple(arguments, "Oy*nnnn", &capsule, &data, &low, &high, &most, &limit)) return NULL;
  const Table *table = PyCapsule_GetPointer(capsule, TABLE);
  PyObject *found = NULL;
  if (table && (low < 0 || high < low || high > data.len || data.len > INT32_MAX || most < 0)) {
    PyErr_SetString(PyExc_ValueError, "a place outside the block");
  } else if (table) {
    Run *run = begin(table, &data, low, high, limit, KEY_BITS);
    if (run) {
      Py_BEGIN_ALLOW_THREADS
      elements(run, run->base, (size_t)most);
      Py_END_ALLOW_THREADS
      found = end(run);
    }
  }
  PyBuffer_Release(&data);
  return found;
}

static PyObject *judge_framed(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *capsule;
  Py_buffer data, places;
  Py_ssize_t limit;
  int prove;
  if (!PyArg_ParseTuple(arguments, "Oy*y*ni", &capsule, &data, &places, &limit, &prove)) return NULL;
  const Table *table = PyCapsule_GetPointer(capsule, TABLE);
  PyObject *found = NULL;
  const int64_t *each = places.buf;
  Py_ssize_t count = places.len / (Py_ssize_t)(2 * sizeof(*each));
  int good = table && data.len <= INT32_MAX;
  for (Py_ssize_t i = 0; good && i < count; i++) {
    good = each[2 * i] >= 0 && each[2 * i] <= each[2 * i + 1] && each[2 * i + 1] <= data.len;
  }
  if (table && !good) PyErr_SetString(PyExc_ValueError, "a place outside the block");
  Run *run = good ? begin(table, &data, 0, data.len, limit, KEY_BITS) : NULL;
  if (run) {
    Py_BEGIN_ALLOW_THREADS
    framed(run, each, (size_t)count, prove);
    Py_END_ALLOW_THREADS
    found = end(run);
  }
  PyBuffer_Release(&data);
  PyBuffer_Release(&places);
  return found;
}

/* Return the clean parts of one record; None if it is not surely an object without repeated fields. */
static PyObject *judge_look(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *capsule, *found = NULL;
  Py_buffer data;
  if (!PyArg_ParseTuple(arguments, "Oy*", &capsule, &data)) return NULL;
  const Table *table = PyCapsule_GetPointer(capsule, TABLE);
  Run *run = table ? begin(table, &data, 0, data.len, data.len, FEW_KEY_BITS) : NULL;
  if (run) {
    Look look = {run, {PyDict_New(), PyDict_New(), PyDict_New()}};
    int ready = look.found[OBJECTS] && look.found[LISTS] && look.found[PAIRS];
    int object = ready && data.len <= INT32_MAX && data.len > 0 && *run->base == '{';
    int sure = object && look_at_object(&look, run->base, &table->shapes[0], 0) == run->end;
    if (run->failed) PyErr_NoMemory();
    else if (sure) found = PyTuple_Pack(LOOKED, look.found[OBJECTS], look.found[LISTS], look.found[PAIRS]);
    else if (!PyErr_Occurred()) found = Py_NewRef(Py_None);
    for (int i = 0; i < LOOKED; i++) Py_XDECREF(look.found[i]);
    discard(run);
  }
  PyBuffer_Release(&data);
  return found;
}

static PyMethodDef methods[] = {
    {"look", judge_look, METH_VARARGS, "The clean parts of a record: table, data."},
    {"table", make_table, METH_O, "A table of what may stand in a record."},
    {"elements", judge_elements, METH_VARARGS, "Judge the elements of an array: table, data, low, high, most, limit."},
    {"framed", judge_framed, METH_VARARGS, "Judge records: table, data, places as pairs of int64, limit, prove."},
    {NULL, NULL, 0, NULL},
};

static int fill(PyObject *module) {
  fill_classes();
  return PyModule_AddIntConstant(module, "VECTORS", JUDGE_VECTORS);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, fill}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_judge",
    .m_doc = "Tells clean records from those that need a closer look.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__judge(void) { return PyModuleDef_Init(&definition); }
