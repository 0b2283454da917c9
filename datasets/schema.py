"""The form of the annotations as a JSON Schema, for editors and validators.

python -m datasets.schema > annotations.schema.json
"""

import json
import sys

from common.arguments import Parser
from datasets.annotations import json_schema


def main(argv: list[str] | None = None) -> int:
    """Print the schema."""
    Parser(prog="python -m datasets.schema", description="Print the JSON Schema of the annotations.").parse_args(argv)
    print(json.dumps(json_schema(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
