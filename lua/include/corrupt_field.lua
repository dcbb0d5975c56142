-- The name and the value of a field of a room that no script writes so; nil if there is none.
--
-- INCLUDE  numbers, order

local function corrupt_field(fields)
  if next(fields) and not ORDER[fields.status] then return 'status ' .. (fields.status or '') end
  if fields.generation and not is_number(fields.generation) then return 'generation ' .. fields.generation end
  if fields.version and not is_number(fields.version) then return 'version ' .. fields.version end
  if fields.opened and not (#fields.opened <= 41 and string.find(fields.opened, '^%d+-%d+$')) then
    return 'opened ' .. fields.opened
  end
end
