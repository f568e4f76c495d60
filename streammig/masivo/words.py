"""The words that a message of an API may hold; none of them is a name, a month or a part of an address.

`CONTRACT` are Masivo's own: routes, fields of requests and answers, values of enumerations. `COMMON` are those of APIs,
HTTP, databases and plain English in error messages. Read by `redact`, which replaces every other word.
"""

from __future__ import annotations

CONTRACT = frozenset(
    """
    accumulation amount android at authorize balance bank begin brand brands by cancelled cash channel channels
    consent cost country created credit customer customers data date debit details device devices discounted dob
    document duplicate email emails end enqueued error errors event events expiration expires female field fields
    fulfilled fulfill funded from gender has id ids identifier info ios issued item items last lifetime line lines
    lot macos male message metadata method metrics migrate migrated migration model month name names number numbers of
    order orders os other payment period periods phone phones platform product products purchase purchases quantity
    quarter redeem redeemed redemption registration required resolved reversal revert reverted reward rewards semester
    session shipping sku spend start status store stores tag tags this tier tiers to token total totals transaction
    transactions transfer type types updated user users uuid value values version visit wallet web windows year
    """.split()
)
COMMON = frozenset(
    """
    a abort aborted about above accept acceptable accepted access account accounts action active actual add added after
    again agent all allow allowed already also alternative always an and another any api apis app application are
    argument arguments array arrays as ask async attempt attempted attempts attribute attributes auth authentication
    authenticated authorization authorized automatic available back bad base batch batches be bearer because been
    before being below between blocked body boolean both broken buffer busy but byte bytes cache call caller calls can
    cannot capacity case cause certificate change changed character characters check checked checksum client clock
    close closed code codes collection column command comma completed complete configuration configured conflict
    conflicts connect connected connection connections constraint contain contained contains content context
    conversion convert correct corrupt could count counter create creating credentials currency current database
    dates datetime day days deadlock decimal decode decoding default defined delay delete deleted denied depth
    deserialize detail detected did different digit digits disabled does domain done double down downstream due
    duplicated duplicates duration each either element elements empty enabled encoded encoding endpoint enough entities
    entity entries entry enum enumeration environment equal equals every exactly exceed exceeded exceeds except
    exception exist existing exists expect expected expired explicit external fail failed failing fails failure
    failures false few file finished first float follow following for forbidden foreign format formatted formats found
    full function future gateway get given global go gone greater group had handler hash have header headers here high
    hour hours html http https idempotency if ignored illegal import imported in inactive incomplete inconsistent
    incorrect index indexes indices inner input insert inserted inside insufficient integer integers integrity internal
    into invalid invalidated is iso issue it its job jobs json just key keys kind known large larger latency later least
    left length less letter letters level limit limited limits list lists load loaded local locale locked long longer
    low maintenance malformed many mapping match matches matching max maximal maximum media memory merge messages
    min minimal minimum minute minutes mismatch missing mode modified more most moved must mutation negative nested
    network never new next no node none not nothing null nullable object objects occurred off offset ok old on once one
    only operation operations option optional options or out outside over overflow overload overloaded own owner page
    parameter parameters params parent parse parsed parser parsing part partial partially parts pass passed password
    past path pattern payload pending per permanently permission permissions permitted please pointer policy pool
    position positive possible precision preceding precondition present previous primary privileges problem process
    processed processing prohibited properties property provided proxy put query queue queued quota range rate rates
    raw read readable reading reason received record records redirect reference referenced references refused
    region registered reject rejected related remaining remote remove removed repeat repeated replaced request requested
    requests requires reset resource resources response rest restricted result results retry returned right role
    roles root route router row rows rule rules run same save saved schema schemas scope second seconds section see
    sent serialize server servers service services set short should signature signed since size sizes skipped slow
    small smaller so some something soon source span specified specification stage standard state statement step still
    stopped storage stored string strings structure submitted succeeded success successful successfully such support
    supported syntax system table target task taken temporarily temporary text than that the their them then there
    these they third those thread throttled throttling time timed timeout timestamp times time timezone too too track
    trailing transient true try trying twice two type unable unacceptable unauthenticated unauthorized unavailable
    unchanged undefined under unexpected unhandled unique unit units unknown unless unparseable unprocessable unreadable
    unrecognized unsupported until up update upload upper upstream url use used using utc utf valid validate validated
    validation validator variable verification verified verify via violated violates violation wait waiting want was
    way were what when where whether which while whole width with within without work worker write writing written
    wrong yes yet you your zero zone
    """.split()
)
ALLOWED = CONTRACT | COMMON
