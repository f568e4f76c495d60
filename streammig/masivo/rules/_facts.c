/* Find the facts of records, as `facts.py` does, without decoding them.

   Records are checked before, so each is one JSON value of the form of the models, without repeated fields. A record in
   an unusual spelling is "not sure", and `facts.py` decodes it. Nothing outside a record is read. No Python object is
   touched while records are read, so other threads run. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>

#include "_text.h"

/* ---- what is looked for ---- */

/* The kinds of things in the order of `facts.KINDS`, and after them KIND_SUM, the names of sums. */
enum {
  REWARD, BRAND, CHANNEL, STORE, TIER, EVENT_TYPE, REMARK, KIND_SUM,
  AMOUNT, ISSUED, PURCHASE_ID, TYPE_OF_EVENT, TYPE_OF_TRANSACTION, LOTS, EVENTS, TRANSACTIONS, ORDER, METRICS, PERIOD,
  NOTHING
};
enum { KINDS = KIND_SUM };

typedef struct { const char *name; int length, role; } Field;
typedef struct { int count, other; const Field *fields; } Shape; /* `other`: the meaning of any other field */

#define FIELD(name, role) {name, sizeof(name) - 1, role}
#define SHAPE(it, other) {sizeof(it) / sizeof(*(it)), other, it}

static const Field lot[] = {FIELD("reward_id", REWARD), FIELD("amount", AMOUNT), FIELD("brand_id", BRAND),
                            FIELD("channel_id", CHANNEL), FIELD("store_id", STORE)};
static const Field period[] = {FIELD("tier_id", TIER)};
static const Field order[] = {FIELD("purchase_id", PURCHASE_ID), FIELD("channel_id", CHANNEL), FIELD("store_id", STORE)};
static const Field event[] = {FIELD("type", TYPE_OF_EVENT), FIELD("brand_id", BRAND), FIELD("order", ORDER),
                              FIELD("issued_at", ISSUED), FIELD("channel_id", CHANNEL), FIELD("store_id", STORE)};
static const Field transaction[] = {FIELD("brand_id", BRAND), FIELD("reward_id", REWARD),
                                    FIELD("type", TYPE_OF_TRANSACTION), FIELD("issued_at", ISSUED),
                                    FIELD("amount", AMOUNT), FIELD("store_id", STORE), FIELD("channel_id", CHANNEL)};
static const Field customer[] = {FIELD("balance", LOTS), FIELD("metrics", METRICS)};
static const Field owner_of_events[] = {FIELD("events", EVENTS)};
static const Field owner_of_transactions[] = {FIELD("transactions", TRANSACTIONS)};

static const Shape a_lot = SHAPE(lot, NOTHING), a_period = SHAPE(period, NOTHING), an_order = SHAPE(order, NOTHING);
static const Shape an_event = SHAPE(event, NOTHING), a_transaction = SHAPE(transaction, NOTHING);
static const Shape of_metrics = {0, PERIOD, period};
static const Shape records[] = {SHAPE(customer, NOTHING), SHAPE(owner_of_events, NOTHING),
                                SHAPE(owner_of_transactions, NOTHING)}; /* in the order of `facts.STAGES` */

/* ---- one look at many records, and what it finds ---- */

typedef struct { At text; size_t length; } Words;
typedef struct {
  Words words; /* of a sum: the numbers of its reward and its brand */
  uint64_t hash;
  int kind;
  Py_ssize_t row, times, share; /* the last row that has it, and of a sum the share of that */
} Thing;
typedef struct { Py_ssize_t row, number; Words words; } Key;
typedef struct { Py_ssize_t row; size_t sum; int64_t whole, rest; } Share;
typedef struct Block { struct Block *next; } Block;

typedef struct {
  At end; /* of the record */
  Py_ssize_t row;
  int failed;
  Vector things, met, keys, shares, unsure;
  uint32_t *slots;
  size_t slot_count;
  Block *blocks;
  uint8_t *free;
  size_t left;
  /* of the unit */
  Py_ssize_t reward, brand;
  int has_amount, purchase, unsigned_;
  int64_t whole, rest;
  Words key;
} Look;

static void *of_memory(Look *look, void *it) {
  if (it == NULL) look->failed = 1;
  return it;
}

static void *more(Look *look, Vector *it, size_t wanted) { return of_memory(look, grown(it, wanted)); }

/* Allocate bytes that never move. */
static uint8_t *room(Look *look, size_t wanted) {
  if (look->free == NULL || wanted > look->left) {
    size_t size = wanted > 65536 ? wanted : 65536;
    Block *block = of_memory(look, malloc(sizeof(Block) + size));
    if (block == NULL) return NULL;
    block->next = look->blocks;
    look->blocks = block;
    look->free = (uint8_t *)(block + 1);
    look->left = size;
  }
  uint8_t *found = look->free;
  look->free += wanted;
  look->left -= wanted;
  return found;
}

static Thing *thing(const Look *look, size_t at) { return (Thing *)look->things.data + at; }

static int widen(Look *look) {
  size_t count = look->slot_count ? look->slot_count * 2 : 1024;
  uint32_t *slots = of_memory(look, calloc(count, sizeof(*slots)));
  if (slots == NULL) return 0;
  for (size_t i = 0; i < look->things.count; i++) {
    size_t slot = thing(look, i)->hash & (count - 1);
    while (slots[slot]) slot = (slot + 1) & (count - 1);
    slots[slot] = (uint32_t)i + 1;
  }
  free(look->slots);
  look->slots = slots;
  look->slot_count = count;
  return 1;
}

/* Return the number of a thing, a new one if it was not met before; -1 without memory. `keep`: copy its text. */
static Py_ssize_t number_of(Look *look, int kind, Words words, int keep) {
  uint64_t hash = (uint64_t)kind + words.length, some;
  size_t i = 0;
  for (; i + 8 <= words.length; i += 8) {
    memcpy(&some, words.text + i, 8);
    hash = (hash ^ some) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  }
  some = 0;
  if (i > 0) memcpy(&some, words.text + words.length - 8, 8); /* the last 8 bytes; some of them a second time */
  else for (; i < words.length; i++) some = some << 8 | words.text[i];
  hash = (hash ^ some) * 0x9E3779B97F4A7C15u;
  hash ^= hash >> 32;
  if (2 * look->things.count >= look->slot_count && !widen(look)) return -1;
  size_t slot = hash & (look->slot_count - 1);
  for (; look->slots[slot]; slot = (slot + 1) & (look->slot_count - 1)) {
    const Thing *it = thing(look, look->slots[slot] - 1);
    if (it->hash == hash && it->kind == kind && it->words.length == words.length &&
        memcmp(it->words.text, words.text, words.length) == 0)
      return (Py_ssize_t)look->slots[slot] - 1;
  }
  Thing *it = more(look, &look->things, 1);
  uint8_t *text = it && keep ? room(look, words.length) : NULL;
  if (it == NULL || (keep && text == NULL)) return -1;
  if (keep) words.text = memcpy(text, words.text, words.length);
  *it = (Thing){words, hash, kind, -1, 0, 0};
  look->slots[slot] = (uint32_t)look->things.count;
  return (Py_ssize_t)look->things.count - 1;
}

/* Count a thing that the record mentions; return its number, or -1 without memory. */
static Py_ssize_t mention(Look *look, int kind, Words words) {
  Py_ssize_t number = number_of(look, kind, words, 0);
  if (number >= 0 && thing(look, (size_t)number)->row != look->row) {
    size_t *met = more(look, &look->met, 1);
    if (met == NULL) return -1;
    *met = (size_t)number;
    thing(look, (size_t)number)->row = look->row;
  }
  return number;
}

static int remark(Look *look, const char *what) {
  return mention(look, REMARK, (Words){(At)what, strlen(what)}) >= 0;
}

/* ---- values ---- */

/* Find the quote that ends a text, from inside it. */
static At quote(At at, At end, int *escaped) {
  for (;;) {
#if JUDGE_VECTORS
    for (; end - at >= 16; at += 16) {
      __m128i some = _mm_loadu_si128((const __m128i *)at);
      int mask = _mm_movemask_epi8(
          _mm_or_si128(_mm_cmpeq_epi8(some, _mm_set1_epi8('"')), _mm_cmpeq_epi8(some, _mm_set1_epi8('\\'))));
      if (mask) {
        at += __builtin_ctz((unsigned)mask);
        break;
      }
    }
#endif
    while (at < end && *at != '"' && *at != '\\') at++;
    if (at >= end) return NULL;
    if (*at == '"') return at;
    *escaped = 1;
    if (end - at < 2) return NULL;
    at += 2;
  }
}

/* Find the first bracket or quote from here on. */
static At bracket(At at, At end) {
#if JUDGE_VECTORS
  for (; end - at >= 16; at += 16) {
    __m128i some = _mm_loadu_si128((const __m128i *)at), low = _mm_or_si128(some, _mm_set1_epi8(32));
    __m128i odd = _mm_or_si128(_mm_cmpeq_epi8(low, _mm_set1_epi8('{')), _mm_cmpeq_epi8(low, _mm_set1_epi8('}')));
    int mask = _mm_movemask_epi8(_mm_or_si128(odd, _mm_cmpeq_epi8(some, _mm_set1_epi8('"'))));
    if (mask) return at + __builtin_ctz((unsigned)mask);
  }
#endif
  while (at < end && *at != '"' && (*at | 32) != '{' && (*at | 32) != '}') at++;
  return at;
}

/* Skip a value: return the place after it. */
static At skip(At at, At end) {
  int escaped;
  if (*at == '"') {
    at = quote(at + 1, end, &escaped);
    return at ? at + 1 : NULL;
  }
  if (*at != '{' && *at != '[') {
    while (at < end && *at > ' ' && *at != ',' && *at != '}' && *at != ']') at++;
    return at;
  }
  for (size_t depth = 0;;) {
    at = bracket(at, end);
    if (at >= end) return NULL;
    if (*at == '"') {
      at = quote(at + 1, end, &escaped);
      if (at == NULL) return NULL;
    } else if ((*at | 32) == '{') {
      depth++;
    } else if (--depth == 0) {
      return at + 1;
    }
    at++;
  }
}

static int is_word(Words words, const char *word) {
  return words.length == strlen(word) && memcmp(words.text, word, words.length) == 0;
}

/* Write these words in lower case, if that is sure. */
static int small(Look *look, Words *words) {
  int large = 0;
  for (size_t i = 0; i < words->length; i++) {
    if (words->text[i] >= 0x80) return 0;
    large |= words->text[i] >= 'A' && words->text[i] <= 'Z';
  }
  if (!large) return 1;
  uint8_t *to = room(look, words->length);
  if (to == NULL) return 0;
  for (size_t i = 0; i < words->length; i++) {
    to[i] = words->text[i] >= 'A' && words->text[i] <= 'Z' ? words->text[i] | 32 : words->text[i];
  }
  words->text = to;
  return 1;
}

/* Take in a text of a wanted field. */
static int noted(Look *look, int role, Words words) {
  static const char first_year[] = "2020";
  size_t year = words.length < 4 ? words.length : 4;
  int before;
  switch (role) {
  case REWARD:
    return small(look, &words) && (look->reward = mention(look, REWARD, words)) >= 0;
  case BRAND: {
    Py_ssize_t brand = mention(look, BRAND, words);
    look->brand = words.length ? brand : -1;
    return brand >= 0;
  }
  case TIER:
    return words.length == 0 || (small(look, &words) && mention(look, TIER, words) >= 0);
  case ISSUED:
    before = memcmp(words.text, first_year, year);
    return !(before < 0 || (before == 0 && year < 4)) || remark(look, "old");
  case PURCHASE_ID:
    look->key = words;
    return 1;
  case TYPE_OF_EVENT:
    look->purchase = is_word(words, "PURCHASE");
    return mention(look, EVENT_TYPE, words) >= 0;
  case TYPE_OF_TRANSACTION:
    look->unsigned_ = is_word(words, "MIGRATION");
    return 1;
  }
  return mention(look, role, words) >= 0;
}

/* Skip a text or null. */
static At text_value(Look *look, At at, int role) {
  int escaped = 0;
  if (*at == 'n') return skip(at, look->end);
  if (*at != '"') return NULL;
  At after = quote(++at, look->end, &escaped);
  if (after == NULL) return NULL;
  Words words = {at, (size_t)(after - at)};
  if (escaped) {
    Text it;
    uint8_t *to = room(look, words.length);
    if (to == NULL || text(at - 1, look->end, &it) == NULL) return NULL;
    words = (Words){to, (size_t)(unescaped(to, &it) - to)};
  }
  return noted(look, role, words) ? after + 1 : NULL;
}

enum { MOST_DIGITS = 18, FRACTION_DIGITS = 12 };
static const int64_t most_whole = 1000000000000000; /* in one amount */
static const int64_t most_sum = 4000000000000000000;

/* Skip an amount, if 18 digits and a fraction of 12 hold it exactly. */
static At amount(Look *look, At at) {
  static const int64_t tens[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000, 10000000000,
                                 100000000000, 1000000000000};
  At end = look->end;
  int64_t value = 0;
  int negative = *at == '-', point = 0, count = 0, shift = FRACTION_DIGITS, power = 0;
  at += negative;
  if (at >= end || !is(*at, IS_DIGIT)) return NULL;
  for (; at < end; at++) {
    if (*at == '.' && !point) {
      point = 1;
      continue;
    }
    if (!is(*at, IS_DIGIT)) break;
    if ((value || *at != '0') && ++count > MOST_DIGITS) return NULL;
    value = value * 10 + *at - '0';
    shift -= point;
  }
  if (at < end && (*at | 32) == 'e') {
    int less = ++at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+')) at++;
    for (; at < end && is(*at, IS_DIGIT); at++) {
      if (power > 99) return NULL;
      power = power * 10 + *at - '0';
    }
    shift += less ? -power : power;
  }
  if (value == 0) shift = 0;
  for (; shift < 0; shift++, value /= 10) {
    if (value % 10) return NULL;
  }
  for (; shift > FRACTION_DIGITS; shift--, value *= 10) {
    if (value > most_whole) return NULL;
  }
  int64_t unit = tens[FRACTION_DIGITS - shift];
  look->whole = value / unit;
  look->rest = value % unit * tens[shift];
  if (look->whole > most_whole) return NULL;
  if (negative) {
    look->whole = -look->whole;
    look->rest = -look->rest;
  }
  look->has_amount = 1;
  return at;
}

/* ---- units and records ---- */

static int add_share(Look *look) {
  int64_t numbers[2] = {look->reward, look->brand};
  Py_ssize_t number = number_of(look, KIND_SUM, (Words){(At)numbers, sizeof(numbers)}, 1);
  if (number < 0) return 0;
  Thing *sum = thing(look, (size_t)number);
  if (sum->row != look->row) {
    Share *share = more(look, &look->shares, 1);
    if (share == NULL) return 0;
    *share = (Share){look->row, (size_t)number, look->whole, look->rest};
    sum->row = look->row;
    sum->share = (Py_ssize_t)look->shares.count - 1;
    return 1;
  }
  Share *share = (Share *)look->shares.data + sum->share;
  share->whole += look->whole;
  share->rest += look->rest;
  return share->whole < most_sum && share->whole > -most_sum && share->rest < most_sum && share->rest > -most_sum;
}

static int add_key(Look *look, Py_ssize_t number) {
  Key *key = more(look, &look->keys, 1);
  if (key) *key = (Key){look->row, number, look->key};
  return key != NULL;
}

static At object(Look *look, At at, const Shape *shape);

static At list(Look *look, At at, const Shape *shape) {
  At end = look->end;
  if (*at != '[') return NULL;
  at = blanks(at + 1, end);
  if (at < end && *at == ']') return at + 1;
  for (Py_ssize_t number = 0;; number++) {
    look->reward = look->brand = -1;
    look->has_amount = look->purchase = look->unsigned_ = 0;
    look->key = (Words){at, 0};
    at = object(look, at, shape);
    if (at == NULL) return NULL;
    if (look->has_amount && !look->unsigned_ && (look->reward < 0 || !add_share(look))) return NULL;
    if (look->purchase && !add_key(look, number)) return NULL;
    at = blanks(at, end);
    if (at >= end) return NULL;
    if (*at == ']') return at + 1;
    if (*at != ',') return NULL;
    at = blanks(at + 1, end);
  }
}

/* Skip the value of a field, and take it in. */
static At value(Look *look, At at, int role) {
  switch (role) {
  case NOTHING:
    return skip(at, look->end);
  case AMOUNT:
    return amount(look, at);
  case LOTS:
    return list(look, at, &a_lot);
  case EVENTS:
    return list(look, at, &an_event);
  case TRANSACTIONS:
    return list(look, at, &a_transaction);
  case ORDER:
    return object(look, at, &an_order);
  case METRICS:
    return *at == '{' ? object(look, at, &of_metrics) : skip(at, look->end);
  case PERIOD: /* a period, or the text of `updated_at`; either way there are metrics */
    if (!remark(look, "metrics")) return NULL;
    return *at == '{' ? object(look, at, &a_period) : skip(at, look->end);
  }
  return text_value(look, at, role);
}

/* Whether two names of this length, which is 4 to 16, are the same. */
static int same_name(const uint8_t *name, const char *other, size_t length) {
  if (length < 8) {
    uint32_t a[2], b[2];
    memcpy(a, name, 4), memcpy(a + 1, name + length - 4, 4), memcpy(b, other, 4), memcpy(b + 1, other + length - 4, 4);
    return a[0] == b[0] && a[1] == b[1];
  }
  uint64_t a[2], b[2];
  memcpy(a, name, 8), memcpy(a + 1, name + length - 8, 8), memcpy(b, other, 8), memcpy(b + 1, other + length - 8, 8);
  return a[0] == b[0] && a[1] == b[1];
}

/* Find the meaning of the field whose name begins here. `after` is set to its closing quote, or NULL. */
static int role_of(const Shape *shape, At name, At end, int *next, At *after) {
  const Field *field = &shape->fields[*next];
  if (*next < shape->count && end - name > field->length && name[field->length] == '"' &&
      same_name(name, field->name, (size_t)field->length)) { /* usually the next one */
    *after = name + field->length;
    ++*next;
    return field->role;
  }
  int escaped = 0;
  At close = quote(name, end, &escaped);
  *after = escaped ? NULL : close;
  for (int i = 0; *after && i < shape->count; i++) {
    field = &shape->fields[i];
    if (field->length == close - name && same_name(name, field->name, (size_t)field->length)) {
      *next = i + 1;
      return field->role;
    }
  }
  return shape->other;
}

/* Skip an object, and take in its fields. */
static At object(Look *look, At at, const Shape *shape) {
  At end = look->end;
  int next = 0;
  if (at >= end || *at != '{') return NULL;
  at = blanks(at + 1, end);
  if (at < end && *at == '}') return at + 1;
  for (;; at = blanks(at + 1, end)) {
    if (at >= end || *at != '"') return NULL;
    At after;
    int role = role_of(shape, at + 1, end, &next, &after);
    if (after == NULL) return NULL;
    at = blanks(after + 1, end);
    if (at >= end || *at != ':') return NULL;
    at = blanks(at + 1, end);
    if (at >= end) return NULL;
    at = role == NOTHING ? skip(at, end) : value(look, at, role);
    if (at == NULL) return NULL;
    at = blanks(at, end);
    if (at >= end) return NULL;
    if (*at == '}') return at + 1;
    if (*at != ',') return NULL;
  }
}

static void record(Look *look, At at, const Shape *shape) {
  size_t keys = look->keys.count, shares = look->shares.count;
  look->met.count = 0;
  if (object(look, blanks(at, look->end), shape)) {
    for (size_t i = 0; i < look->met.count; i++) thing(look, ((size_t *)look->met.data)[i])->times++;
    return;
  }
  look->keys.count = keys;
  look->shares.count = shares;
  Py_ssize_t *unsure = more(look, &look->unsure, 1);
  if (unsure) *unsure = look->row;
}

/* ---- the result as Python objects ---- */

static PyObject *utf8(Words words) { return PyUnicode_DecodeUTF8((const char *)words.text, (Py_ssize_t)words.length, NULL); }

static PyObject *name_of(const Look *look, const Thing *sum) {
  int64_t numbers[2];
  memcpy(numbers, sum->words.text, sizeof(numbers));
  PyObject *reward = utf8(thing(look, (size_t)numbers[0])->words);
  PyObject *brand = numbers[1] < 0 ? PyUnicode_New(0, 127) : utf8(thing(look, (size_t)numbers[1])->words);
  PyObject *name = reward && brand ? PyUnicode_FromFormat("%U %U", reward, brand) : NULL;
  Py_XDECREF(reward);
  Py_XDECREF(brand);
  return name;
}

static PyObject *in_units(const Share *share, PyObject *unit) {
  static const int64_t enough = 9000000;
  if (share->whole < enough && share->whole > -enough && share->rest < most_whole && share->rest > -most_whole)
    return PyLong_FromLongLong(share->whole * 1000000000000 + share->rest);
  PyObject *whole = PyLong_FromLongLong(share->whole), *rest = PyLong_FromLongLong(share->rest);
  PyObject *units = whole ? PyNumber_Multiply(whole, unit) : NULL;
  PyObject *found = units && rest ? PyNumber_Add(units, rest) : NULL;
  Py_XDECREF(whole);
  Py_XDECREF(rest);
  Py_XDECREF(units);
  return found;
}

static PyObject *mentioned(const Look *look, PyObject *kinds) {
  PyObject *found = PyDict_New();
  for (size_t i = 0; found && i < look->things.count; i++) {
    const Thing *it = thing(look, i);
    if (it->kind >= KINDS || it->times == 0) continue;
    PyObject *which = utf8(it->words), *key = which ? PyTuple_Pack(2, PyTuple_GET_ITEM(kinds, it->kind), which) : NULL;
    PyObject *times = key ? PyLong_FromSsize_t(it->times) : NULL;
    if (times == NULL || PyDict_SetItem(found, key, times)) Py_CLEAR(found);
    Py_XDECREF(which);
    Py_XDECREF(key);
    Py_XDECREF(times);
  }
  return found;
}

/* Make a tuple of a row and two objects, which are consumed. */
static PyObject *of_row(Py_ssize_t row, PyObject *one, PyObject *other) {
  PyObject *number = PyLong_FromSsize_t(row), *found = number && one && other ? PyTuple_New(3) : NULL;
  if (found == NULL) {
    Py_XDECREF(number);
    Py_XDECREF(one);
    Py_XDECREF(other);
    return NULL;
  }
  PyTuple_SET_ITEM(found, 0, number);
  PyTuple_SET_ITEM(found, 1, one);
  PyTuple_SET_ITEM(found, 2, other);
  return found;
}

static PyObject *keys_of(const Look *look) {
  PyObject *found = PyList_New((Py_ssize_t)look->keys.count);
  for (size_t i = 0; found && i < look->keys.count; i++) {
    const Key *it = (const Key *)look->keys.data + i;
    PyObject *key = of_row(it->row, PyLong_FromSsize_t(it->number), utf8(it->words));
    if (key == NULL) Py_CLEAR(found);
    else PyList_SET_ITEM(found, (Py_ssize_t)i, key);
  }
  return found;
}

static PyObject *shares_of(const Look *look) {
  PyObject *found = PyList_New((Py_ssize_t)look->shares.count), *unit = PyLong_FromLongLong(1000000000000);
  PyObject **names = PyMem_Calloc(look->things.count + 1, sizeof(*names));
  if (names == NULL || unit == NULL) Py_CLEAR(found);
  for (size_t i = 0; found && i < look->shares.count; i++) {
    const Share *it = (const Share *)look->shares.data + i;
    if (names[it->sum] == NULL) names[it->sum] = name_of(look, thing(look, it->sum));
    PyObject *share = names[it->sum] ? of_row(it->row, Py_NewRef(names[it->sum]), in_units(it, unit)) : NULL;
    if (share == NULL) Py_CLEAR(found);
    else PyList_SET_ITEM(found, (Py_ssize_t)i, share);
  }
  for (size_t i = 0; names && i < look->things.count; i++) Py_XDECREF(names[i]);
  PyMem_Free(names);
  Py_XDECREF(unit);
  return found;
}

static PyObject *rows_of(const Vector *rows) {
  PyObject *found = PyList_New((Py_ssize_t)rows->count);
  for (size_t i = 0; found && i < rows->count; i++) {
    PyObject *row = PyLong_FromSsize_t(((Py_ssize_t *)rows->data)[i]);
    if (row == NULL) Py_CLEAR(found);
    else PyList_SET_ITEM(found, (Py_ssize_t)i, row);
  }
  return found;
}

static PyObject *result(const Look *look, PyObject *kinds) {
  if (look->failed) return PyErr_NoMemory();
  PyObject *parts[] = {mentioned(look, kinds), keys_of(look), shares_of(look), rows_of(&look->unsure)}, *found = NULL;
  if (parts[0] && parts[1] && parts[2] && parts[3]) found = PyTuple_Pack(4, parts[0], parts[1], parts[2], parts[3]);
  for (int i = 0; i < 4; i++) Py_XDECREF(parts[i]);
  return found;
}

static void discard(Look *look) {
  Vector *all[] = {&look->things, &look->met, &look->keys, &look->shares, &look->unsure};
  for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) free(all[i]->data);
  free(look->slots);
  while (look->blocks) {
    Block *block = look->blocks;
    look->blocks = block->next;
    free(block);
  }
}

/* ---- the module ---- */

/* Find the bodies of rows: in the data from `starts` to `ends`, or in `edited`. */
static Words *bodies_of(const Py_buffer *data, PyObject *starts, PyObject *ends, PyObject *edited) {
  Py_ssize_t count = PyList_GET_SIZE(starts);
  Words *found = PyMem_Calloc((size_t)count + 1, sizeof(*found));
  int good = found && PyList_GET_SIZE(ends) == count;
  for (Py_ssize_t i = 0; good && i < count; i++) {
    Py_ssize_t begin = PyLong_AsSsize_t(PyList_GET_ITEM(starts, i)), end = PyLong_AsSsize_t(PyList_GET_ITEM(ends, i));
    good = begin >= 0 && end >= begin && end <= data->len;
    if (good) found[i] = (Words){(At)data->buf + begin, (size_t)(end - begin)};
  }
  for (Py_ssize_t i = 0; good && i < PyTuple_GET_SIZE(edited); i++) {
    Py_ssize_t row, length;
    const char *body;
    good = PyArg_ParseTuple(PyTuple_GET_ITEM(edited, i), "ny#", &row, &body, &length) && row >= 0 && row < count;
    if (good) found[row] = (Words){(At)body, (size_t)length};
  }
  if (good) return found;
  PyMem_Free(found);
  if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a place outside the data");
  return NULL;
}

static PyObject *facts(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *kinds, *starts, *ends, *edited, *found = NULL;
  Py_buffer data;
  int stage;
  if (!PyArg_ParseTuple(arguments, "iO!y*O!O!O!", &stage, &PyTuple_Type, &kinds, &data, &PyList_Type, &starts, &PyList_Type,
                        &ends, &PyTuple_Type, &edited))
    return NULL;
  Words *bodies = NULL;
  if (stage < 0 || stage >= (int)(sizeof(records) / sizeof(*records)) || PyTuple_GET_SIZE(kinds) != KINDS) {
    PyErr_SetString(PyExc_ValueError, "no such stage, or other kinds");
  } else {
    bodies = bodies_of(&data, starts, ends, edited);
  }
  if (bodies) {
    Py_ssize_t count = PyList_GET_SIZE(starts);
    Look look = {.things.size = sizeof(Thing), .met.size = sizeof(size_t), .keys.size = sizeof(Key),
                 .shares.size = sizeof(Share), .unsure.size = sizeof(Py_ssize_t)};
    Py_BEGIN_ALLOW_THREADS
    for (look.row = 0; look.row < count && !look.failed; look.row++) {
      look.end = bodies[look.row].text + bodies[look.row].length;
      record(&look, bodies[look.row].text, &records[stage]);
    }
    Py_END_ALLOW_THREADS
    found = result(&look, kinds);
    discard(&look);
    PyMem_Free(bodies);
  }
  PyBuffer_Release(&data);
  return found;
}

static PyMethodDef methods[] = {
    {"facts", facts, METH_VARARGS, "Find the facts of records: stage, kinds, data, starts, ends, edited rows."},
    {NULL, NULL, 0, NULL},
};

static int fill(PyObject *module) {
  (void)module;
  fill_classes();
  return 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_facts",
    .m_doc = "Finds the facts of records.",
    .m_methods = methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__facts(void) { return PyModuleDef_Init(&definition); }
