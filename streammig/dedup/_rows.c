/* Rows of the dedup index: made from columns as by `scan.packed`, partitioned as by `parts.partition`, looked up. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { HASH = 12, PLACE = 24, ROW = PLACE + 2 * HASH + 1 + HASH, SUM = PLACE + 2 * HASH + 1, ORDINAL = 16 };

/* ---- BLAKE2b with a key and a person, RFC 7693 ---- */

enum { BLOCK = 128, KEY_BYTES = 64, PERSON_BYTES = 16 };

typedef struct { uint64_t h[8], count; } State; /* no text has 2**64 bytes */

static const uint64_t first[8] = {
  0x6A09E667F3BCC908u, 0xBB67AE8584CAA73Bu, 0x3C6EF372FE94F82Bu, 0xA54FF53A5F1D36F1u,
  0x510E527FADE682D1u, 0x9B05688C2B3E6C1Fu, 0x1F83D9ABFB41BD6Bu, 0x5BE0CD19137E2179u,
};

static const uint8_t order[10][16] = {
  {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
  {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
  {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
  {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
  {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static uint64_t load(const uint8_t *from) { /* little-endian; compilers make it one load on such a machine */
  uint64_t word = 0;
  for (int i = 0; i < 8; i++) word |= (uint64_t)from[i] << 8 * i;
  return word;
}

static uint64_t turned(uint64_t word, int by) { return word >> by | word << (64 - by); }

#define MIX(a, b, c, d, x, y) \
  (a += b + (x), d = turned(d ^ a, 32), c += d, b = turned(b ^ c, 24), \
   a += b + (y), d = turned(d ^ a, 16), c += d, b = turned(b ^ c, 63))

#define ROUND(i) \
  (MIX(v[0], v[4], v[8], v[12], m[order[i][0]], m[order[i][1]]), \
   MIX(v[1], v[5], v[9], v[13], m[order[i][2]], m[order[i][3]]), \
   MIX(v[2], v[6], v[10], v[14], m[order[i][4]], m[order[i][5]]), \
   MIX(v[3], v[7], v[11], v[15], m[order[i][6]], m[order[i][7]]), \
   MIX(v[0], v[5], v[10], v[15], m[order[i][8]], m[order[i][9]]), \
   MIX(v[1], v[6], v[11], v[12], m[order[i][10]], m[order[i][11]]), \
   MIX(v[2], v[7], v[8], v[13], m[order[i][12]], m[order[i][13]]), \
   MIX(v[3], v[4], v[9], v[14], m[order[i][14]], m[order[i][15]]))

static void compress(State *state, const uint8_t *block, int last) {
  uint64_t m[16], v[16];
  for (int i = 0; i < 16; i++) m[i] = load(block + 8 * i);
  memcpy(v, state->h, sizeof(state->h));
  memcpy(v + 8, first, sizeof(first));
  v[12] ^= state->count;
  if (last) v[14] = ~v[14];
  ROUND(0); ROUND(1); ROUND(2); ROUND(3); ROUND(4); ROUND(5); ROUND(6); ROUND(7); ROUND(8); ROUND(9); ROUND(0); ROUND(1);
  for (int i = 0; i < 8; i++) state->h[i] ^= v[i] ^ v[i + 8];
}

static void put(const State *state, uint8_t *to) {
  for (int i = 0; i < HASH; i++) to[i] = (uint8_t)(state->h[i / 8] >> 8 * (i % 8));
}

/* Make the state that all hashes under a key for a person begin with: the state after the block of the key. */
static int begin(State *state, const char *key, Py_ssize_t length, const char *person, Py_ssize_t called) {
  uint8_t block[BLOCK] = {0}, name[PERSON_BYTES] = {0};
  if (length < 1 || length > KEY_BYTES || called > PERSON_BYTES) {
    PyErr_SetString(PyExc_ValueError, "a key or a person of another length");
    return 0;
  }
  memcpy(block, key, (size_t)length);
  memcpy(name, person, (size_t)called);
  memcpy(state->h, first, sizeof(first));
  state->h[0] ^= HASH | (uint64_t)length << 8 | 0x01010000u;
  state->h[6] ^= load(name);
  state->h[7] ^= load(name + 8);
  state->count = BLOCK;
  compress(state, block, 0);
  return 1;
}

/* A hash of joined texts, under way. The newest block waits here, for the last block is compressed in another way. */
typedef struct {
  State state;
  uint8_t block[BLOCK];
  size_t filled;
} Open;

static int take(Open *open, PyObject *text) {
  Py_ssize_t left;
  const char *at = PyUnicode_AsUTF8AndSize(text, &left);
  while (at && left > 0) {
    size_t room = BLOCK - open->filled, some = (size_t)left < room ? (size_t)left : room;
    if (room == 0) {
      compress(&open->state, open->block, 0);
      open->filled = 0;
      continue;
    }
    memcpy(open->block + open->filled, at, some);
    open->filled += some;
    open->state.count += some;
    at += some;
    left -= (Py_ssize_t)some;
  }
  return at != NULL;
}

/* Write the hash of the text taken so far; zeros if it is empty. */
static void finish(Open *open, uint8_t *to) {
  memset(to, 0, HASH);
  if (open->filled == 0) return;
  memset(open->block + open->filled, 0, BLOCK - open->filled);
  compress(&open->state, open->block, 1);
  put(&open->state, to);
}

/* Write the hash of a text; zeros if it is empty. */
static int hash(const State *keyed, PyObject *text, uint8_t *to) {
  Open open;
  open.state = *keyed;
  open.filled = 0;
  if (!take(&open, text)) return 0;
  finish(&open, to);
  return 1;
}

/* ---- rows ---- */

static uint8_t *big(uint8_t *to, uint64_t number, int bytes) {
  for (int i = 0; i < bytes; i++) to[i] = (uint8_t)(number >> 8 * (bytes - 1 - i));
  return to + bytes;
}

/* Return the joined hashes of texts. */
static PyObject *hashes(PyObject *module, PyObject *arguments) {
  (void)module;
  const char *key, *person;
  Py_ssize_t length, called;
  PyObject *texts;
  State by;
  if (!PyArg_ParseTuple(arguments, "y#y#O!", &key, &length, &person, &called, &PyList_Type, &texts)) return NULL;
  if (!begin(&by, key, length, person, called)) return NULL;
  Py_ssize_t count = PyList_GET_SIZE(texts);
  PyObject *found = PyBytes_FromStringAndSize(NULL, count * HASH);
  for (Py_ssize_t i = 0; found && i < count; i++) {
    if (!hash(&by, PyList_GET_ITEM(texts, i), (uint8_t *)PyBytes_AS_STRING(found) + i * HASH)) Py_CLEAR(found);
  }
  return found;
}

/* Write rows without reasons. The columns (offsets, units, ordinals, owners, uniques, sums) are lists of one length;
   uniques and sums may be empty. */
static int fill(uint8_t *to, unsigned int source, PyObject *columns[6], const State *owner, const State *unique) {
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(columns[0]); i++, to += ROW) {
    uint64_t numbers[3];
    for (int j = 0; j < 3; j++) {
      numbers[j] = PyLong_AsUnsignedLongLong(PyList_GET_ITEM(columns[j], i));
      if (numbers[j] == (uint64_t)-1 && PyErr_Occurred()) return 0;
    }
    uint8_t *at = big(big(big(big(to, source, 4), numbers[0], 8), numbers[1], 4), numbers[2], 8);
    if (!hash(owner, PyList_GET_ITEM(columns[3], i), at)) return 0;
    PyObject *other = PyList_GET_SIZE(columns[4]) ? PyList_GET_ITEM(columns[4], i) : NULL;
    at += HASH;
    memset(at, 0, HASH + 1);
    if (other && !hash(unique, other, at)) return 0;
    at += HASH + 1;
    memset(at, 0xFF, HASH);
    if (PyList_GET_SIZE(columns[5]) == 0) continue;
    PyObject *sum = PyList_GET_ITEM(columns[5], i);
    if (!PyBytes_Check(sum) || PyBytes_GET_SIZE(sum) != HASH) {
      PyErr_SetString(PyExc_ValueError, "a sum of another length");
      return 0;
    }
    memcpy(at, PyBytes_AS_STRING(sum), HASH);
  }
  return 1;
}

static PyObject *rows(PyObject *module, PyObject *arguments) {
  (void)module;
  const char *key, *persons[2];
  Py_ssize_t length, called[2];
  unsigned int source;
  PyObject *columns[6];
  State owner, unique;
  if (!PyArg_ParseTuple(arguments, "y#y#y#I(O!O!O!O!O!O!)", &key, &length, &persons[0], &called[0], &persons[1], &called[1],
                        &source, &PyList_Type, &columns[0], &PyList_Type, &columns[1], &PyList_Type, &columns[2],
                        &PyList_Type, &columns[3], &PyList_Type, &columns[4], &PyList_Type, &columns[5]))
    return NULL;
  if (!begin(&owner, key, length, persons[0], called[0]) || !begin(&unique, key, length, persons[1], called[1])) return NULL;
  Py_ssize_t count = PyList_GET_SIZE(columns[0]);
  for (int j = 1; j < 6; j++) {
    Py_ssize_t size = PyList_GET_SIZE(columns[j]);
    if (size != count && (size || j < 4)) {
      PyErr_SetString(PyExc_ValueError, "columns of different lengths");
      return NULL;
    }
  }
  PyObject *found = PyBytes_FromStringAndSize(NULL, count * ROW);
  if (found && !fill((uint8_t *)PyBytes_AS_STRING(found), source, columns, &owner, &unique)) Py_CLEAR(found);
  return found;
}

/* Write rows of units. `keys` has (row, number of the unit in it, key) for each; the columns have place and owner. */
static int fill_units(uint8_t *to, unsigned int source, PyObject *columns[4], PyObject *keys, const State *by) {
  PyObject *zero = PyUnicode_FromOrdinal(0);
  int good = zero != NULL;
  for (Py_ssize_t i = 0; good && i < PyList_GET_SIZE(keys); i++, to += ROW) {
    PyObject *unit = PyList_GET_ITEM(keys, i);
    int is_unit = PyTuple_Check(unit) && PyTuple_GET_SIZE(unit) == 3;
    Py_ssize_t row = is_unit ? PyLong_AsSsize_t(PyTuple_GET_ITEM(unit, 0)) : -1;
    Py_ssize_t number = is_unit ? PyLong_AsSsize_t(PyTuple_GET_ITEM(unit, 1)) : -1;
    if (row < 0 || number < 0 || row >= PyList_GET_SIZE(columns[0])) {
      if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a unit of no row");
      good = 0;
      break;
    }
    uint64_t numbers[3];
    for (int j = 0; good && j < 3; j++) {
      numbers[j] = PyLong_AsUnsignedLongLong(PyList_GET_ITEM(columns[j], row));
      good = numbers[j] != (uint64_t)-1 || !PyErr_Occurred();
    }
    Open open;
    open.state = *by;
    open.filled = 0;
    good = good && take(&open, PyList_GET_ITEM(columns[3], row)) && take(&open, zero) &&
           take(&open, PyTuple_GET_ITEM(unit, 2));
    if (!good) break;
    uint8_t *at = big(big(big(big(to, source, 4), numbers[0], 8), numbers[1] + (uint64_t)number, 4), numbers[2], 8);
    finish(&open, at);
    memset(at + HASH, 0, HASH + 1);
    memset(at + 2 * HASH + 1, 0xFF, HASH);
  }
  Py_XDECREF(zero);
  return good;
}

static PyObject *units(PyObject *module, PyObject *arguments) {
  (void)module;
  const char *key, *person;
  Py_ssize_t length, called;
  unsigned int source;
  PyObject *columns[4], *keys;
  State by;
  if (!PyArg_ParseTuple(arguments, "y#y#I(O!O!O!O!)O!", &key, &length, &person, &called, &source, &PyList_Type, &columns[0],
                        &PyList_Type, &columns[1], &PyList_Type, &columns[2], &PyList_Type, &columns[3], &PyList_Type, &keys))
    return NULL;
  if (!begin(&by, key, length, person, called)) return NULL;
  for (int j = 1; j < 4; j++) {
    if (PyList_GET_SIZE(columns[j]) != PyList_GET_SIZE(columns[0])) {
      PyErr_SetString(PyExc_ValueError, "columns of different lengths");
      return NULL;
    }
  }
  PyObject *found = PyBytes_FromStringAndSize(NULL, PyList_GET_SIZE(keys) * ROW);
  if (found && !fill_units((uint8_t *)PyBytes_AS_STRING(found), source, columns, keys, &by)) Py_CLEAR(found);
  return found;
}

/* Return the rows with a number added to each ordinal. */
static PyObject *counted_on(PyObject *module, PyObject *arguments) {
  (void)module;
  const char *rows;
  Py_ssize_t length;
  unsigned long long counted;
  if (!PyArg_ParseTuple(arguments, "y#K", &rows, &length, &counted)) return NULL;
  PyObject *found = PyBytes_FromStringAndSize(rows, length);
  if (found == NULL) return NULL;
  uint8_t *at = (uint8_t *)PyBytes_AS_STRING(found) + ORDINAL;
  for (Py_ssize_t i = 0; i < length / ROW; i++, at += ROW) {
    uint64_t number = counted;
    for (int j = 0; j < 8; j++) number += (uint64_t)at[j] << 8 * (7 - j);
    big(at, number, 8);
  }
  return found;
}

/* ---- entries ---- */

enum { KINDS = 2, NUMBER = 5, MOST_BITS = 8, REASON = SUM - 1 };

static const uint8_t no_key[HASH] = {0};

/* By kind: the offset of the key in a row, and the bytes of an entry. */
static const int keys[KINDS] = {PLACE, PLACE + HASH}, sizes[KINDS] = {HASH + HASH + NUMBER + 1, HASH + NUMBER + 1};

/* Return the entries of one kind, part by part; append the bytes of each part to `lengths`. */
static PyObject *entries(const uint8_t *rows, Py_ssize_t count, PyObject *numbers, int bits, int kind, PyObject *lengths) {
  Py_ssize_t ends[1 << MOST_BITS] = {0}, total = 0;
  const uint8_t *row = rows;
  for (Py_ssize_t i = 0; i < count; i++, row += ROW) {
    if (kind == 0 || memcmp(row + keys[kind], no_key, HASH)) ends[row[keys[kind]] >> (8 - bits)] += sizes[kind];
  }
  for (int part = 0; part < 1 << bits; part++) {
    PyObject *length = PyLong_FromSsize_t(ends[part]);
    if (length == NULL || PyList_Append(lengths, length)) {
      Py_XDECREF(length);
      return NULL;
    }
    Py_DECREF(length);
    Py_ssize_t begins = total;
    total += ends[part];
    ends[part] = begins;
  }
  PyObject *found = PyBytes_FromStringAndSize(NULL, total);
  row = rows;
  for (Py_ssize_t i = 0; found && i < count; i++, row += ROW) {
    if (kind != 0 && !memcmp(row + keys[kind], no_key, HASH)) continue;
    uint64_t number = PyLong_AsUnsignedLongLong(PyList_GET_ITEM(numbers, i));
    if (number == (uint64_t)-1 && PyErr_Occurred()) {
      Py_CLEAR(found);
      break;
    }
    Py_ssize_t *end = &ends[row[keys[kind]] >> (8 - bits)];
    uint8_t *to = (uint8_t *)PyBytes_AS_STRING(found) + *end;
    *end += sizes[kind];
    memcpy(to, row + keys[kind], HASH);
    to += HASH;
    if (kind == 0) {
      memcpy(to, row + SUM, HASH);
      to += HASH;
    }
    *big(to, number, NUMBER) = row[REASON];
  }
  return found;
}

/* Return the entries of rows with these numbers, partitioned by the first bits of their hashes: for each kind all
   entries, and the length of each part in bytes. */
static PyObject *parted(PyObject *module, PyObject *arguments) {
  (void)module;
  const char *rows;
  Py_ssize_t length;
  PyObject *numbers;
  int bits;
  if (!PyArg_ParseTuple(arguments, "y#O!i", &rows, &length, &PyList_Type, &numbers, &bits)) return NULL;
  if (length % ROW || PyList_GET_SIZE(numbers) != length / ROW || bits < 0 || bits > MOST_BITS) {
    PyErr_SetString(PyExc_ValueError, "no rows, or not as many numbers");
    return NULL;
  }
  PyObject *lengths[KINDS] = {PyList_New(0), PyList_New(0)}, *data[KINDS] = {NULL, NULL}, *found = NULL;
  int good = lengths[0] && lengths[1];
  for (int kind = 0; good && kind < KINDS; kind++) {
    data[kind] = entries((const uint8_t *)rows, length / ROW, numbers, bits, kind, lengths[kind]);
    good = data[kind] != NULL;
  }
  if (good) found = Py_BuildValue("(OO)(OO)", data[0], data[1], lengths[0], lengths[1]);
  for (int kind = 0; kind < KINDS; kind++) {
    Py_XDECREF(lengths[kind]);
    Py_XDECREF(data[kind]);
  }
  return found;
}

/* ---- the roster ---- */

enum { UNKNOWN = 255 };

/* Return a byte for each hash of an owner: its reason in the first `count` entries of the roster, else UNKNOWN. */
static PyObject *reasons(PyObject *module, PyObject *arguments) {
  (void)module;
  Py_buffer roster;
  Py_ssize_t count, length;
  const char *hashed;
  if (!PyArg_ParseTuple(arguments, "y*ny#", &roster, &count, &hashed, &length)) return NULL;
  PyObject *found = NULL;
  if (count < 0 || count > roster.len / sizes[0] || length % HASH) {
    PyErr_SetString(PyExc_ValueError, "no such roster, or no hashes");
  } else {
    found = PyBytes_FromStringAndSize(NULL, length / HASH);
  }
  for (Py_ssize_t i = 0; found && i < length / HASH; i++) {
    const uint8_t *entries = roster.buf;
    Py_ssize_t low = 0, high = count;
    while (low < high) {
      Py_ssize_t middle = low + (high - low) / 2;
      if (memcmp(entries + middle * sizes[0], hashed + i * HASH, HASH) < 0) low = middle + 1;
      else high = middle;
    }
    const uint8_t *entry = entries + low * sizes[0];
    int there = low < count && !memcmp(entry, hashed + i * HASH, HASH);
    PyBytes_AS_STRING(found)[i] = (char)(there ? entry[sizes[0] - 1] : UNKNOWN);
  }
  PyBuffer_Release(&roster);
  return found;
}

static PyMethodDef methods[] = {
    {"reasons", reasons, METH_VARARGS, "Reasons of owners: roster, how many owners it has, hashes."},
    {"counted_on", counted_on, METH_VARARGS, "Rows with raised ordinals: rows, by how much."},
    {"parted", parted, METH_VARARGS, "Entries of rows: rows, their numbers, bits that tell the part."},
    {"hashes", hashes, METH_VARARGS, "The hashes of texts: key, person, texts."},
    {"units", units, METH_VARARGS, "Rows of units: key, person, source, columns of rows, units."},
    {"rows", rows, METH_VARARGS, "Rows: key, the persons of owners and of uniques, source, columns."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_rows",
    .m_doc = "Makes rows of the dedup index.",
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__rows(void) { return PyModuleDef_Init(&definition); }
