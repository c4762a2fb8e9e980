"""Problems that tests alone can't decide, found by reading the 408 statements.

Searching for phrases is not enough: "if there are multiple such cells, choose the smallest" has one answer, and some
problems accept any construction without saying so.
"""

from __future__ import annotations

INTERACTIVE = "interactive"
SEVERAL = "several outputs may be right, and there is no checker"
_INTERACTIVE = """
1973D 1977E 1979F 1987H 1990E1 1990E2 1991E 1991I 1994H 1999G1 1999G2 2001C 2013C 2022D1 2022D2 2032D 2036G
"""
_SEVERAL = """
1971B 1972E 1973C 1974D 1977B 1977D 1978C 1979C 1979D 1979E 1980F1 1981C 1981D 1983A 1983C 1984A 1984G 1988C 1990B
1991B 1991C 1991D 1991G 1992C 1992E 1994A 1994D 1994F 1994G 1997A 1998A 1998B 1999D 2001B 2003C 2005A 2020C 2023A
2024C 2025F 2026A 2028D 2029D 2029E 2030B 2032B 2032E 2035C 2035H
"""
EXCLUSIONS = {**dict.fromkeys(_INTERACTIVE.split(), INTERACTIVE), **dict.fromkeys(_SEVERAL.split(), SEVERAL)}
