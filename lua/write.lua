-- Merge one status into each room: for a rank, under a lease, or through a generation. Times are milliseconds.
--
-- KEYS     feed, epoch, leases, owned, refused; each: room, prefix in mode prefill
-- ARGV     feed_length, ttl_ms, terminal_ttl_ms, epoch_ttl_ms, nonce, rank, world_size, owner,
--          incarnation, author, policy; each: status, generation, reason
-- REPLY    feed_id, epoch; each: outcome, status
-- FEED     ttl_ms, status, first, rank, reason, owner
-- CODES    1 CREATED, 2 ADVANCED, 3 UNCHANGED, 4 FAILED, 5 SKIPPED, 6 STALE, -2 LEASE, -3 WORLD_SIZE,
--          -4 CORRUPT
-- INCLUDE  is_lease_lost, numbers, read_fields, rank_view, order, next_generation, create_room, write_status,
--          refused, feed
--
-- An empty generation is a plain write, merged by the policy. With a generation it is merged by strict, and STALE once
-- the room has another, or the rank has cleared. A room without ranks, or with another number of them, is refused with
-- WORLD_SIZE; its own number replaces the status. For a key of another type (made by hand), the error does; with
-- CORRUPT, a field and its value.

local reply = {false, redis.call('HGET', KEYS[2], 'epoch')}
local count = (#ARGV - 11) / 3
local step = (#KEYS - 5) / count
local lease_lost = is_lease_lost()
local generation

for i = 1, count do
  local room, prefix = KEYS[(i - 1) * step + 6], KEYS[i * 2 + 5]
  local incoming, expected_generation, reason = ARGV[i * 3 + 9], ARGV[i * 3 + 10], ARGV[i * 3 + 11]
  local fields, type_error = read_fields(room)
  local current, is_fenced = fields[status_field], expected_generation ~= ''
  local strict = is_fenced or ARGV[11] == 'strict'
  local outcome, status = 3, rank_view(fields.status, fields[status_field], fields[cleared_field])
  if type_error then
    status = type_error
  elseif fields.version and not is_number(fields.version) then
    outcome, status = -4, 'version ' .. fields.version
  elseif is_fenced and (fields.generation ~= expected_generation or fields[cleared_field]) then
    outcome = 6
  elseif lease_lost then
    outcome, status = -2, owner
  elseif fields.status and (fields.world_size or '') ~= world_size then
    outcome, status = -3, fields.world_size or ''
  else
    if incoming == 'Failed' and step == 2 then
      local dropped = redis.pcall('HDEL', prefix, length_field)
      if type(dropped) == 'table' then status = dropped end
    end
    if fields[cleared_field] then
      outcome = 5
    elseif incoming == 'Failed' then
      -- With a generation, a rank without a status may fail the room too: the write is not a late one.
      outcome = (current or (is_fenced and fields.status)) and (current == 'Failed' and 3 or 4) or 5
    elseif not current then
      outcome = fields.status == 'Failed' and 4 or (strict and ORDER[incoming] > 2) and 5 or 1
      if outcome == 4 then incoming = 'Failed' end
    elseif not (strict and fields.status == 'Failed') and ORDER[incoming] > (ORDER[current] or 9) then
      outcome = 2
    end
    if type(status) == 'table' then
      outcome = 3
    elseif outcome == 1 or outcome == 2 or outcome == 4 then
      if not fields.status then
        generation = generation or next_generation('')
        create_room(room, fields, generation, '')
      end
      write_status(room, fields, incoming, reason)
      status = rank_view(fields.status, fields[status_field], fields[cleared_field])
    end
  end
  if outcome > 4 or outcome < 0 then
    refused, refused_key = refused or {}, KEYS[5]
    refused[outcome] = (refused[outcome] or 0) + 1
  end
  reply[i * 2 + 1], reply[i * 2 + 2] = outcome, status
end
