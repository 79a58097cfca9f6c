"""Chemical formulas and the English names of what they stand for: ``NaCl`` and ``sodium chloride``."""

import re

_SYMBOLS = """H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru
Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At
Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr"""
_ELEMENTS = set(_SYMBOLS.split())
_FORMULA = re.compile(r"(?:[A-Z][a-z]?\d*)+")

_NAMED = """hydrogen=H helium=He lithium=Li beryllium=Be boron=B carbon=C nitrogen=N oxygen=O fluorine=F neon=Ne sodium=Na magnesium=Mg
aluminum=Al aluminium=Al silicon=Si phosphorus=P sulfur=S sulphur=S chlorine=Cl argon=Ar potassium=K calcium=Ca titanium=Ti
chromium=Cr manganese=Mn iron=Fe cobalt=Co nickel=Ni copper=Cu zinc=Zn bromine=Br krypton=Kr strontium=Sr silver=Ag tin=Sn
iodine=I xenon=Xe cesium=Cs barium=Ba platinum=Pt gold=Au mercury=Hg lead=Pb radon=Rn radium=Ra uranium=U"""
_ELEMENT_NAMES = dict(pair.split("=") for pair in _NAMED.split())
_GASES = {
    "H2": "hydrogen",
    "N2": "nitrogen",
    "O2": "oxygen",
    "F2": "fluorine",
    "Cl2": "chlorine",
    "Br2": "bromine",
    "I2": "iodine",
}
_GROUPS = """hydride=H fluoride=F chloride=Cl bromide=Br iodide=I oxide=O sulfide=S sulphide=S nitride=N carbide=C hydroxide=OH
nitrate=NO3 nitrite=NO2 sulfate=SO4 sulphate=SO4 sulfite=SO3 carbonate=CO3 bicarbonate=HCO3 phosphate=PO4 permanganate=MnO4
acetate=CH3COO"""
_ANIONS = dict(pair.split("=") for pair in _GROUPS.split())
_COUNTS = {
    "": 0,
    "mono": 1,
    "mon": 1,
    "di": 2,
    "tri": 3,
    "tetra": 4,
    "tetr": 4,
    "penta": 5,
    "pent": 5,
    "hexa": 6,
    "hex": 6,
}
_SALT = re.compile(
    rf"(?:({'|'.join(_COUNTS)}))({'|'.join(_ELEMENT_NAMES)})(?: ?\([ivx]+\))? ({'|'.join(_COUNTS)})({'|'.join(_ANIONS)})"
)
_COMMON = """H2O=water|dihydrogen monoxide; H2O2=hydrogen peroxide; O3=ozone; NH3=ammonia; CH4=methane; C2H6=ethane; C3H8=propane;
C2H4=ethene|ethylene; C2H2=ethyne|acetylene; C6H6=benzene; CH3OH=methanol; C2H5OH=ethanol; CH3CH2OH=ethanol; C6H12O6=glucose;
CH3COOH=acetic acid|ethanoic acid; HCOOH=formic acid; HCl=hydrochloric acid; HNO3=nitric acid; H2SO4=sulfuric acid|sulphuric acid;
H2CO3=carbonic acid; H3PO4=phosphoric acid; HF=hydrofluoric acid; HBr=hydrobromic acid; NaCl=table salt|salt; NaHCO3=baking soda;
CaCO3=limestone; CO2=dry ice; Fe2O3=rust; SiO2=silica; NH4Cl=ammonium chloride; NH4NO3=ammonium nitrate"""
_NAMES = {
    formula.strip(): names.split("|") for formula, _, names in (entry.partition("=") for entry in _COMMON.split(";"))
}


def elements(word: str) -> list[str] | None:
    """The elements of a formula; None where a word is none."""
    if not _FORMULA.fullmatch(word):
        return None
    found = re.findall(r"[A-Z][a-z]?", word)
    return found if _ELEMENTS.issuperset(found) else None


def names_substance(name: str, formula: str) -> bool:
    """Whether a name is a name of what a formula stands for: ``carbon monoxide`` for ``CO``; False where it is not known."""
    name = re.sub(r"^the |(?<=\w) (?:gas|metal|atoms?|molecules?)$", "", name.strip().casefold())
    if _ELEMENT_NAMES.get(name) == formula or _GASES.get(formula) == name or name in _NAMES.get(formula, ()):
        return True
    if not (salt := _SALT.fullmatch(name)):
        return False
    first, cation, times, anion = salt.groups()
    symbol, group = _ELEMENT_NAMES[cation], _ANIONS[anion]
    match = re.fullmatch(rf"{symbol}(\d*)(?:{group}(\d*)|\({group}\)(\d+))", formula)
    if match is None:
        return False
    found = int(match[1] or 1), int(match[2] or match[3] or 1)
    return _COUNTS[first] in (0, found[0]) and _COUNTS[times] in (0, found[1])
