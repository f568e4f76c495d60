"""The names by which other systems call the fields of Masivo's records, for a first proposal of a mapping.

They are compared without case, accents, blanks and signs. The first name that an export has is taken.
"""

from __future__ import annotations

import re
import unicodedata

OWNER = ("customer id", "member id", "member no", "member number", "member", "client id", "user id", "cust id",
         "cust no", "customer no")  # fmt: skip
CARD = (
    "customer number", "card number", "id cliente", "numero cliente", "no cliente", "codigo cliente", "cliente",
    "id socio", "numero socio", "numero de socio", "no socio", "codigo socio", "socio",
)  # fmt: skip
ID = (*OWNER, "id", "no", "number", "loyalty id", "external id", *CARD)
EMAIL = ("email", "e-mail", "email address", "mail", "correo", "correo electronico")
USUAL: dict[str, dict[str, tuple[str, ...]]] = {
    "customers": {
        "id": ID,
        "name": ("name", "full name", "customer name", "display name", "nombre completo", "nombre"),
        "first": ("first name", "first", "given name", "forename", "nombre", "nombres"),
        "last": ("last name", "last", "surname", "family name", "apellido", "apellidos"),
        "email": EMAIL,
        "registration_date": (
            "registration date", "registered at", "registered", "created at", "created", "joined", "joined at",
            "joined on", "join date", "member since", "customer since", "since", "sign up date", "signup date",
            "date added", "enrollment date", "enrolled at", "became member on", "fecha alta", "fecha de alta",
        ),
        "gender": ("gender", "sex", "sexo", "genero"),
        "dob": ("dob", "date of birth", "birth date", "birthday", "birthdate", "born", "fecha de nacimiento",
                "fecha nacimiento"),
        "country": ("country code", "country", "default address country code", "pais"),
        "amount": (
            "points", "points balance", "points bal", "point balance", "loyalty points", "reward points",
            "current points", "available points", "balance", "puntos", "saldo",
        ),
    },
    "events": {
        "customer": (*OWNER, "customer", "person", *CARD, *EMAIL),
        "purchase_id": (
            "order id", "receipt id", "receipt", "receipt number", "invoice", "invoice number", "ticket",
            "order number",
            "order", "purchase id", "sale id", "transaction id", "id",
        ),
        "value": ("total", "order total", "grand total", "total price", "amount", "value", "price", "importe",
                  "valor"),
        "issued_at": (
            "issued at", "purchased at", "order date", "paid at", "processed at", "created at", "date", "at", "time",
            "timestamp", "ts", "fecha",
        ),
    },
}  # fmt: skip
# Fields by which old systems mark a customer as deleted, and the words that say so.
DELETED = ("deleted", "is deleted", "deleted at", "active", "is active", "status", "state", "closed", "baja",
           "eliminado", "activo", "estado")  # fmt: skip
FORMS = {
    "customers": {"id", "name", "email", "registration_date", "balance"},
    "events": {"id", "events"},
    "transactions": {"id", "transactions"},
}
"""The fields by which records are known to have Masivo's form already."""


def folded(name: str) -> str:
    """A name without case, accents, blanks and signs; of a way, its last step."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", name) if not unicodedata.combining(sign))
    return re.sub(r"[\W_]+", "", plain).lower()
