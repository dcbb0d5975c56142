-- The fields of a room that a call for one rank needs, by name. Times are milliseconds.
--
-- INCLUDE  caller, counts, read_fields

local OWN_FIELDS = {'status', 'generation', 'world_size', 'version', 'counts', status_field, cleared_field, lease_field}
local ALL_FIELDS = {
  'request', 'owner', 'opened', 'opened_ms', 'status', 'generation', 'world_size', 'version', 'counts', status_field,
  cleared_field, lease_field
}

-- Returns the fields, empty if the room is absent; and the error, if the key has another type (made by hand). A room
-- without valid counts is read whole, and counted.
local function read_room(room, names)
  local values, fields = redis.pcall('HMGET', room, unpack(names)), {}
  if values.err then return fields, values end
  for i = 1, #names do fields[names[i]] = values[i] or nil end
  if rank ~= '' and fields.world_size and not parse_counts(fields.counts, fields[status_field]) then
    fields = read_fields(room)
    fields.counts = format_counts(count_ranks(fields))
  end
  return fields
end
