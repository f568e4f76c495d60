from typing_extensions import Buffer

def facts(
    stage: int,
    kinds: tuple[str, ...],
    data: Buffer,
    starts: list[int],
    ends: list[int],
    edited: tuple[tuple[int, bytes], ...],
    /,
) -> tuple[dict[tuple[str, str], int], list[tuple[int, int, str]], list[tuple[int, str, int]], list[int]]: ...
