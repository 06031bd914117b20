"""The command `recipes`: lists the built-in recipes, or the settings of one."""

import argparse
import json
from typing import Any

from serving.console.command_parser import CommandParser
from serving.console.table import table
from training.errors import RecipeError

HELP = "list the built-in recipes, or the settings of one"
SETTING_HEADER = ("setting", "value", "meaning")
NAME_WIDTH = 16


def add_to(command: CommandParser) -> None:
    """Add the options of `recipes`."""
    command.description = (
        "List the built-in recipes: what each needs and how long it trains on this machine. "
        "With a name, list the settings of that recipe."
    )
    command.example = "digits"
    command.add_argument("recipe", metavar="RECIPE", nargs="?", help="show the settings of this recipe")
    command.add_argument(
        "--json", action="store_true", help="print every setting that a run can replace, as JSON"
    )


def list_recipes(options: argparse.Namespace) -> None:
    """Print the recipes, or the settings of one."""
    if options.recipe is None and not options.json:
        _print_times()
        return
    from training.recipe.catalogue import catalogue

    recipes = {recipe["name"]: recipe for recipe in catalogue()["recipes"]}
    if options.recipe is not None:
        if options.recipe not in recipes:
            raise RecipeError(f'recipe "{options.recipe}": expected one of {", ".join(recipes)}')
        recipes = {options.recipe: recipes[options.recipe]}
    if options.json:
        print(json.dumps({"recipes": list(recipes.values())}, indent=2))
    else:
        _print_settings(recipes[options.recipe])


def _print_settings(recipe: dict[str, Any]) -> None:
    print(f"{recipe['name']}: {recipe['description']}")
    print(f"needs: {recipe['needs']}")
    settings = (
        (setting["key"], json.dumps(setting["value"]), setting.get("help", ""))
        for setting in recipe["settings"]
    )
    print("\n".join(table(SETTING_HEADER, settings)))


def _print_times() -> None:
    from training.data.registry import DATASETS
    from training.estimates.split_sizes import registered_size
    from training.estimates.training_time import estimate_time
    from training.recipe.recipe import built_in_recipes, load_recipe
    from training.reporting.numerals import duration

    for name in built_in_recipes():
        recipe = load_recipe(name)
        print(f"{name:<{NAME_WIDTH}} {recipe.description}")
        print(f"{'':<{NAME_WIDTH}} needs: {DATASETS[recipe.dataset.name].needs}")
        size = registered_size(recipe)
        takes = "depends on your data"
        if size is not None:
            takes = f"about {duration(estimate_time(recipe, size).total_seconds)}, estimated from a few steps"
        print(f"{'':<{NAME_WIDTH}} takes here: {takes}", flush=True)
