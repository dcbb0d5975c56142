-- Merge one status into one room, for the caller.
--
-- INCLUDE  caller, numbers, read_room, rank_view, order, next_generation, create_room, write_status
--
-- ARGV has the policy behind the words of the caller.

local new_generation  -- one for all rooms that a call creates

-- Returns the outcome of a status that is neither refused nor stale, and the status to write.
local function merge(fields, incoming, is_fenced)
  local current, strict = fields[status_field], is_fenced or ARGV[11] == 'strict'
  if fields[cleared_field] then
    return 5
  elseif incoming == 'Failed' then
    -- With a generation, a rank without a status may fail the room too: the write is not a late one.
    return (current or (is_fenced and fields.status)) and (current == 'Failed' and 3 or 4) or 5, incoming
  elseif not current then
    if fields.status == 'Failed' then return 4, 'Failed' end
    return (strict and ORDER[incoming] > 2) and 5 or 1, incoming
  end
  local is_higher = ORDER[incoming] > (ORDER[current] or 9)
  return not (strict and fields.status == 'Failed') and is_higher and 2 or 3, incoming
end

-- Returns the outcome and the status, or what replaces it. In mode prefill a failure drops the decode prefix length.
local function write_room(room, prefix, incoming, expected_generation, reason, lease_lost, is_prefill)
  local fields, type_error = read_room(room)
  local is_fenced = expected_generation ~= ''
  local view = rank_view(fields.status, fields[status_field], fields[cleared_field])
  if type_error then return 3, type_error end
  if rank ~= '' and fields.version and not is_number(fields.version) then return -4, 'version ' .. fields.version end
  if is_fenced and (fields.generation ~= expected_generation or fields[cleared_field]) then return 6, view end
  if lease_lost then return -2, owner end
  if fields.status and (fields.world_size or '') ~= world_size then return -3, fields.world_size or '' end
  if incoming == 'Failed' and is_prefill then
    local dropped = redis.pcall('HDEL', prefix, length_field)
    if type(dropped) == 'table' then
      -- If the key can be read, the server takes no writes now (a replica, a full disk): the call fails with its error.
      if type(redis.pcall('HLEN', prefix)) ~= 'table' then redis.call('HDEL', prefix, length_field) end
      return 3, dropped
    end
  end
  local outcome, status = merge(fields, incoming, is_fenced)
  if outcome ~= 1 and outcome ~= 2 and outcome ~= 4 then return outcome, view end
  if not fields.status then
    new_generation = new_generation or next_generation('')
    fields.generation, fields.request = new_generation, ''
    if owner ~= '' then fields.owner = owner end
    create_room(room, fields)
  end
  write_status(room, fields, status, reason)
  return outcome, rank_view(fields.status, fields[status_field], fields[cleared_field])
end
