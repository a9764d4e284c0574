"""The DSI delivery contract, version 1, as data.

The field names of results follow the public response format of Naturalis' identification service: media, region groups,
regions with a box, predictions with taxa.
"""

from __future__ import annotations

from biocloud_assets.schema import (
    DELIVERY,
    RESCUED,
    Column,
    Contract,
    Field,
    Folder,
    ListOf,
    Presence,
    Struct,
    Table,
    copied,
)

_CREATED = Field("created_at", "timestamp", "When the record was made in DSI's system, UTC")
_UPDATED = Field("updated_at", "timestamp", "When the record was last changed in DSI's system, UTC")
_FRACTION = (0.0, 1.0)


def _id(what: str) -> Field:
    return Field("id", "string", f"Identifier of the {what}", Presence.KEY)


_FOLDERS: tuple[Folder, ...] = (
    Folder(
        "algorithm",
        "The recognition models, by version.",
        (
            _id("algorithm"),
            Field("name", "string", "Name of the model", Presence.REQUIRED),
            Field("version", "string", "Version of the model"),
            Field("tag", "string", "Tag that the model was released under"),
            Field("description", "string", "What the model does"),
            Field("media_type", "string", "What it takes: image, audio, video"),
            Field(
                "taxonomy",
                Struct(
                    (
                        Field("namespace", "string", "The taxonomy that its names come from"),
                        Field("version", "string", "Version of that taxonomy"),
                    )
                ),
                "The taxonomy of the names that it predicts",
            ),
            _CREATED,
            _UPDATED,
        ),
    ),
    Folder(
        "sensor",
        "The devices that record: cameras, audio recorders and others.",
        (
            _id("sensor"),
            Field("name", "string", "Name of the sensor"),
            Field("type", "string", "Kind of device: camera, audio_recorder, …", Presence.REQUIRED),
            Field("model", "string", "Maker's model"),
            Field("serial_number", "string", "Maker's serial number"),
            Field(
                "owner",
                Struct(
                    (Field("id", "string", "Identifier of the owner"), Field("name", "string", "Name of the owner"))
                ),
                "Whose device it is",
            ),
            _CREATED,
            _UPDATED,
        ),
    ),
    Folder(
        "sensor_deployment",
        "Where and when a sensor stood.",
        (
            _id("deployment"),
            Field("sensor_id", "string", "The sensor that was deployed", Presence.REQUIRED, references="sensor"),
            Field("name", "string", "Name of the deployment"),
            Field(
                "location",
                Struct(
                    (
                        Field("latitude", "double", "Latitude, WGS 84, decimal degrees"),
                        Field("longitude", "double", "Longitude, WGS 84, decimal degrees"),
                        Field("coordinate_uncertainty_m", "double", "Radius of uncertainty, metres"),
                        Field("elevation_m", "double", "Elevation above sea level, metres"),
                    )
                ),
                "Where it stood",
            ),
            Field(
                "project",
                Struct(
                    (
                        Field("id", "string", "Identifier of the project"),
                        Field("name", "string", "Name of the project"),
                    )
                ),
                "The project that it was deployed for",
            ),
            Field("habitat", "string", "The habitat around it"),
            Field("start_at", "timestamp", "Start of the deployment, UTC"),
            Field("end_at", "timestamp", "End of the deployment, UTC"),
            _CREATED,
            _UPDATED,
        ),
    ),
    Folder(
        "sensor_media_item",
        "The recordings: images, audio, video.",
        (
            _id("media item"),
            Field(
                "sensor_deployment_id",
                "string",
                "The deployment that recorded it",
                Presence.REQUIRED,
                references="sensor_deployment",
            ),
            Field("captured_at", "timestamp", "When it was recorded, UTC"),
            Field(
                "media",
                Struct(
                    (
                        Field("type", "string", "Kind of medium: image, audio, video"),
                        Field("mime_type", "string", "Media type, as in RFC 6838"),
                        Field("filename", "string", "Name of the file"),
                        Field("uri", "string", "Where the file lies"),
                        Field("size_bytes", "long", "Size of the file, bytes"),
                        Field("width_px", "int", "Width, pixels"),
                        Field("height_px", "int", "Height, pixels"),
                        Field("duration_s", "double", "Duration, seconds"),
                    )
                ),
                "The file",
            ),
            _CREATED,
            _UPDATED,
        ),
    ),
    Folder(
        "analysis_group_result",
        "What an algorithm recognised in a group of media: regions, and the taxa predicted for them.",
        (
            _id("result"),
            Field("analysis_group_id", "string", "The group of media that was analysed together"),
            Field("algorithm_id", "string", "The algorithm", Presence.REQUIRED, references="algorithm"),
            Field(
                "sensor_deployment_id",
                "string",
                "The deployment that the media come from",
                references="sensor_deployment",
            ),
            Field(
                "generated_by",
                Struct(
                    (
                        Field("datetime", "timestamp", "When the result was generated, UTC"),
                        Field("tag", "string", "Tag of the service that generated it"),
                        Field("version", "string", "Version of that service"),
                        Field("parameters", "string", "Its parameters, JSON"),
                    )
                ),
                "What generated the result",
            ),
            Field(
                "media",
                ListOf(
                    Struct(
                        (
                            Field("id", "string", "Identifier of the medium within the result"),
                            Field(
                                "sensor_media_item_id",
                                "string",
                                "The recording",
                                references="sensor_media_item",
                            ),
                            Field("filename", "string", "Name of the file"),
                        )
                    )
                ),
                "The media that were analysed",
            ),
            Field(
                "region_groups",
                ListOf(
                    Struct(
                        (
                            Field("id", "string", "Identifier of the region group within the result"),
                            Field("individual_id", "string", "The individual that its regions show"),
                            Field(
                                "regions",
                                ListOf(
                                    Struct(
                                        (
                                            Field("media_id", "string", "The medium, as in `media[].id`"),
                                            Field(
                                                "box",
                                                Struct(
                                                    (
                                                        Field(
                                                            "x1", "double", "Left, fraction of width", range=_FRACTION
                                                        ),
                                                        Field(
                                                            "y1", "double", "Top, fraction of height", range=_FRACTION
                                                        ),
                                                        Field(
                                                            "x2", "double", "Right, fraction of width", range=_FRACTION
                                                        ),
                                                        Field(
                                                            "y2",
                                                            "double",
                                                            "Bottom, fraction of height",
                                                            range=_FRACTION,
                                                        ),
                                                        Field("t1", "double", "Start, seconds"),
                                                        Field("t2", "double", "End, seconds"),
                                                    ),
                                                    ordered=(("x1", "x2"), ("y1", "y2"), ("t1", "t2")),
                                                ),
                                                "The part of the medium; a null side is unbounded",
                                            ),
                                        )
                                    )
                                ),
                                "The regions of one individual or object",
                            ),
                        )
                    )
                ),
                "The groups of regions that were recognised",
            ),
            Field(
                "predictions",
                ListOf(
                    Struct(
                        (
                            Field("region_group_id", "string", "The region group, as in `region_groups[].id`"),
                            Field(
                                "taxa",
                                Struct(
                                    (
                                        Field("type", "string", "`multiclass` (one of the taxa) or `multilabel` (any)"),
                                        Field(
                                            "items",
                                            ListOf(
                                                Struct(
                                                    (
                                                        Field(
                                                            "scientific_name", "string", "Scientific name of the taxon"
                                                        ),
                                                        Field(
                                                            "scientific_name_id", "string", "Identifier of that name"
                                                        ),
                                                        Field(
                                                            "probability",
                                                            "double",
                                                            "Probability, 0 to 1",
                                                            range=_FRACTION,
                                                        ),
                                                    )
                                                )
                                            ),
                                            "The predicted taxa",
                                        ),
                                    )
                                ),
                                "The taxa predicted for the region group",
                            ),
                        )
                    )
                ),
                "The predictions",
            ),
            _CREATED,
        ),
    ),
)

RESULT = "analysis_group_result"
"""The folder with the nested results."""

_RESULT_ID = Column("result_id", "string", "The result", "id")
_GROUP_INDEX = Column(
    "region_group_index", "int", "Index of the region group in the result, from 0", "region_groups[]", "index"
)
_GROUP_ID = Column(
    "region_group_id", "string", "Identifier of the region group within the result", "region_groups[].id"
)
_BOX = "region_groups[].regions[].box"
_ITEM = "predictions[].taxa.items[]"

_TABLES: tuple[Table, ...] = (
    *(copied(folder) for folder in _FOLDERS if folder.name != RESULT),
    Table(
        "analysis_group_result",
        RESULT,
        "one result",
        (
            Column("id", "string", "Identifier of the result", "id"),
            Column("analysis_group_id", "string", "The group of media that was analysed together", "analysis_group_id"),
            Column("algorithm_id", "string", "The algorithm", "algorithm_id"),
            Column("sensor_deployment_id", "string", "The deployment that the media come from", "sensor_deployment_id"),
            Column("generated_at", "timestamp", "When the result was generated, UTC", "generated_by.datetime"),
            Column("generated_tag", "string", "Tag of the service that generated it", "generated_by.tag"),
            Column("generated_version", "string", "Version of that service", "generated_by.version"),
            Column("generated_parameters", "string", "Its parameters, JSON", "generated_by.parameters"),
            Column("media_count", "int", "Number of media; null for a null list", "media", "size"),
            Column(
                "region_group_count", "int", "Number of region groups; null for a null list", "region_groups", "size"
            ),
            Column("prediction_count", "int", "Number of predictions; null for a null list", "predictions", "size"),
            Column("created_at", "timestamp", "When the record was made in DSI's system, UTC", "created_at"),
            RESCUED,
            DELIVERY,
        ),
        ("id",),
    ),
    Table(
        "analysis_group_result_media",
        RESULT,
        "one medium of a result",
        (
            _RESULT_ID,
            Column("media_index", "int", "Index of the medium in the result, from 0", "media[]", "index"),
            Column("media_id", "string", "Identifier of the medium within the result", "media[].id"),
            Column("sensor_media_item_id", "string", "The recording", "media[].sensor_media_item_id"),
            Column("filename", "string", "Name of the file", "media[].filename"),
            RESCUED,
            DELIVERY,
        ),
        ("result_id", "media_index"),
        ("media[]",),
    ),
    Table(
        "analysis_group_result_region_group",
        RESULT,
        "one region group of a result",
        (
            _RESULT_ID,
            _GROUP_INDEX,
            _GROUP_ID,
            Column("individual_id", "string", "The individual that its regions show", "region_groups[].individual_id"),
            Column("region_count", "int", "Number of regions; null for a null list", "region_groups[].regions", "size"),
            RESCUED,
            DELIVERY,
        ),
        ("result_id", "region_group_index"),
        ("region_groups[]",),
    ),
    Table(
        "analysis_group_result_region",
        RESULT,
        "one region of a region group",
        (
            _RESULT_ID,
            _GROUP_INDEX,
            _GROUP_ID,
            Column(
                "region_index",
                "int",
                "Index of the region in the region group, from 0",
                "region_groups[].regions[]",
                "index",
            ),
            Column("media_id", "string", "The medium that it is a part of", "region_groups[].regions[].media_id"),
            Column("x1", "double", "Left, fraction of width", f"{_BOX}.x1"),
            Column("y1", "double", "Top, fraction of height", f"{_BOX}.y1"),
            Column("x2", "double", "Right, fraction of width", f"{_BOX}.x2"),
            Column("y2", "double", "Bottom, fraction of height", f"{_BOX}.y2"),
            Column("t1", "double", "Start, seconds", f"{_BOX}.t1"),
            Column("t2", "double", "End, seconds", f"{_BOX}.t2"),
            RESCUED,
            DELIVERY,
        ),
        ("result_id", "region_group_index", "region_index"),
        ("region_groups[]", "region_groups[].regions[]"),
    ),
    Table(
        "analysis_group_result_prediction",
        RESULT,
        "one predicted taxon; a prediction without items keeps one row with taxon_index null",
        (
            _RESULT_ID,
            Column(
                "prediction_index", "int", "Index of the prediction in the result, from 0", "predictions[]", "index"
            ),
            Column("region_group_id", "string", "The region group that it is for", "predictions[].region_group_id"),
            Column(
                "taxa_type", "string", "`multiclass` (one of the taxa) or `multilabel` (any)", "predictions[].taxa.type"
            ),
            Column("taxon_count", "int", "Number of taxa; null for a null list", "predictions[].taxa.items", "size"),
            Column("taxon_index", "int", "Index of the taxon in the prediction, from 0", _ITEM, "index"),
            Column("scientific_name", "string", "Scientific name of the taxon", f"{_ITEM}.scientific_name"),
            Column("scientific_name_id", "string", "Identifier of that name", f"{_ITEM}.scientific_name_id"),
            Column("probability", "double", "Probability, 0 to 1", f"{_ITEM}.probability"),
            RESCUED,
            DELIVERY,
        ),
        ("result_id", "prediction_index", "taxon_index"),
        ("predictions[]", _ITEM),
        keeps_empty=True,
    ),
)

CONTRACT = Contract(
    source="dsi",
    owner="team:dsi",
    description="Sensors, deployments, media, algorithms and recognition results of digital species identification.",
    version=1,
    folders=_FOLDERS,
    tables=_TABLES,
)
"""The contract."""
