"""Print the annotation format as a JSON Schema, for editors and validators.

python -m datasets.schema > annotations.schema.json
"""

import json
import sys

from pydantic import TypeAdapter

from common.arguments import Parser
from datasets.annotations import VideoEntry


def main(argv: list[str] | None = None) -> int:
    """Print the schema. `load_annotations` also checks what it cannot express: class ranges and unique ids."""
    Parser(prog="python -m datasets.schema", description="Print the JSON Schema of the annotations.").parse_args(argv)
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **TypeAdapter(dict[str, VideoEntry]).json_schema(),
        "title": "Annotations",
        "description": "Videos by id. The id is also the name of the folder with the video's frames.",
    }
    print(json.dumps(schema, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
